"""Exchange: the forms in which other programs read and write prompts: PEFT's folder both ways, our one file, bundles for
devices, repositories of the hub, MLflow's models.

May import: `serving`, `library`, `model`, `tasks`, `prompts`, `bases` and what is below them. Open `importing.py` first.
"""
