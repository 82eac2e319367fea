"""Sizes as users write them."""

from __future__ import annotations

import re
from typing import Any, Final

import click

SIZE: Final = re.compile(r"(\d{1,18})\s*(?:([KMGT])(?:iB?)?)?", re.IGNORECASE)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Size(click.ParamType[int]):
    """Bytes, or a number with K, M, G or T (powers of 1024, as qemu-img and sgdisk have them)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size; write 120G, 512M or a number of bytes", param, ctx)
        return int(match[1]) * UNITS[(match[2] or "").upper()]
