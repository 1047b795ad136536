"""What a score means: thresholds and p-values with a promise, risk with a guarantee, and the bundle that carries them.

Further functions live in modules named after what they do: `thresholds`, `sessions`, `online`, `risk`, `selection`,
`evaluation`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
