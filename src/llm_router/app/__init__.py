"""LAW: creates two objects and gives one to the other. The composition root: the one room that knows everyone."""

from llm_router.app.serve import listen, serve

__all__ = ["listen", "serve"]
