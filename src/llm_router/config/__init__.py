"""LAW: the only place with defaults, files and environment."""

from llm_router.config.load import ConfigUnreadable, Examined, check, examine, find, load
from llm_router.config.problems import Problem
from llm_router.config.schema import BackendConfig, Config, EndpointConfig, GroupConfig, ModelConfig, Parameters

__all__ = [
    "BackendConfig",
    "Config",
    "ConfigUnreadable",
    "EndpointConfig",
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
