"""For model servers in Python: `app.add_middleware(tocsin.asgi.GuardMiddleware, guard="tocsin.yaml")`."""

from tocsin.inprocess.asgi import GuardMiddleware

__all__ = ["GuardMiddleware"]
