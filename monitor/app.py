"""The composition root of the streaming worker: settings in, a Faust app out, with everything it needs handed over.

Nothing here decides anything; it builds the clients, wires the agent to its topic and closes what it opened. Neither
torch nor transformers is loaded: the model runs in ONNX Runtime or Triton.
"""

from __future__ import annotations
