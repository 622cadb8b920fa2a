"""LAW: the only place with defaults, files and environment."""

from llm_router.config.load import ConfigUnreadable, Examined, check, examine, find, load
from llm_router.config.problems import Problem
from llm_router.config.schema import BackendConfig, Config, GroupConfig, ModelConfig, Parameters

__all__ = [
    "BackendConfig",
    "Config",
    "ConfigUnreadable",
    "Examined",
    "GroupConfig",
    "ModelConfig",
    "Parameters",
    "Problem",
    "check",
    "examine",
    "find",
    "load",
]
