"""SAM and what is put into it: backbones, LoRA, heads, calibration, adaptors, prompts. Knows nothing of Ray."""
