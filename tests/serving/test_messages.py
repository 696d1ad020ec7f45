"""Heads of answers as bytes."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from endcap.serving.messages import http_date


@pytest.mark.parametrize("second", [0, 951_782_400, 1_735_689_599, 1_767_225_600, 2_147_483_647])
def test_dates_are_written_as_http_has_them(second: int) -> None:
    assert http_date(second) == formatdate(second, usegmt=True)
