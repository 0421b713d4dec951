"""Exchange LoRA with Hugging Face PEFT: its checkpoints in, ours out, without importing it.

export_peft(state, folder, draws=8)      the posterior mean, and draws, as PEFT checkpoints
state_from_peft(folder, spec, variant)   a PEFT checkpoint as the state a stream starts from
import_lora(folder)                      the same checkpoint as a method and its weights
"""

from bhpeft.exchange.exported import export_peft
from bhpeft.exchange.imported import Imported, import_lora, state_from_peft

__all__ = ["Imported", "export_peft", "import_lora", "state_from_peft"]
