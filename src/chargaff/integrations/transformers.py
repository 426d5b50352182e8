"""Every family in the Hugging Face ecosystem: `import chargaff.integrations.transformers`, then as always.

From then on `AutoConfig`, `AutoTokenizer`, `AutoModel`, `AutoModelForMaskedLM`, `AutoModelForCausalLM`,
`AutoModelForSequenceClassification` and `AutoModelForTokenClassification` give chargaff's implementation for every
folder or hub id that a family of chargaff recognises, without remote code, and what they always gave for all others.
"""

from chargaff.optional import need

need("transformers", extra="transformers", feature="chargaff.integrations.transformers")

from chargaff.integrations.hf.auto import register
from chargaff.integrations.hf.config import ChargaffConfig
from chargaff.integrations.hf.models import (
    ChargaffForCausalLM,
    ChargaffForMaskedLM,
    ChargaffForSequenceClassification,
    ChargaffForTokenClassification,
    ChargaffModel,
)
from chargaff.integrations.hf.tokenizer import ChargaffTokenizer

__all__ = [
    "ChargaffConfig",
    "ChargaffForCausalLM",
    "ChargaffForMaskedLM",
    "ChargaffForSequenceClassification",
    "ChargaffForTokenClassification",
    "ChargaffModel",
    "ChargaffTokenizer",
    "register",
]

register()
