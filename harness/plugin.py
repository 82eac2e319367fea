"""Where pytest enters: hands over to the fixtures' plugin, whose package has another name in a wheel (harness.places).

It only names them: nothing of `harness` imports fixtures or pytest.
"""

from __future__ import annotations

from harness.places import FIXTURES_PACKAGE

pytest_plugins = (f"{FIXTURES_PACKAGE}.plugin",)
