"""Names of sampling steps. Nothing is sampled: the answer is known."""

from __future__ import annotations

from typing import Any


class SS_Base:  # noqa: N801 - their names there, here and below
    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class SS_Temperature(SS_Base):  # noqa: N801
    pass


class SS_RepP(SS_Base):  # noqa: N801
    pass


class SS_PresFreqP(SS_Base):  # noqa: N801
    pass


class SS_Argmax(SS_Base):  # noqa: N801
    pass


class SS_MinP(SS_Base):  # noqa: N801
    pass


class SS_TopK(SS_Base):  # noqa: N801
    pass


class SS_TopP(SS_Base):  # noqa: N801
    pass


class SS_Sample(SS_Base):  # noqa: N801
    pass


class SS_AdaptiveP(SS_Base):  # noqa: N801
    pass


class SS_BanTokens(SS_Base):  # noqa: N801
    pass


class SS_XTC(SS_Base):  # noqa: N801
    pass


class SS_LogitBias(SS_Base):  # noqa: N801
    pass


class CustomSampler:
    def __init__(self, steps: list[SS_Base]) -> None:
        pass
