"""tamis: sift a pretraining corpus, and prove with proxy models that it helped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis.audit.reader import open_run
    from tamis.inline import score
    from tamis.session import run

__version__ = "0.1.0"
__all__ = ["__version__", "open_run", "run", "score"]

_WHERE = {"open_run": "tamis.audit.reader", "run": "tamis.session", "score": "tamis.inline"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for, so that `import tamis` stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'tamis' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
