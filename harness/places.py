"""Where the data of this installation lies: beside `harness` in a checkout, beside it under another name in a wheel.

The folder is `fixtures` in the repository. In a wheel it is `image_harness_fixtures`, because there the name belongs to
everybody: PyPI has a package `fixtures`, and many a test suite has a folder of that name.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parent / "fixtures"

IS_CHECKOUT = (_HERE.parent / "pyproject.toml").is_file() and _CHECKOUT.is_dir()
FIXTURES_PACKAGE = "fixtures" if IS_CHECKOUT else "image_harness_fixtures"
FIXTURES = _HERE.parent / FIXTURES_PACKAGE

PROFILES = FIXTURES / "profiles"
REFERENCE = FIXTURES / "reference"  # the definition of the reference image
FCOS = FIXTURES / "fcos"  # what suites/fcos makes its flavour of
