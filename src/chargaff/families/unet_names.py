"""Names of the segmentation head in published torch files.

The parts below the head's own name are those of the published code; what comes before them was not seen for every
model, so any prefix is taken.
"""

from chargaff.families.renaming import Rules

UNET_RULES: Rules = [
    (r"(?:[\w]+\.)*?_?((?:down|up)sample_blocks\.\d+\.conv_layers\.\d+\.(?:weight|bias))", r"head.unet._\1"),
    (r"(?:[\w]+\.)*?(final_block\.conv_layers\.\d+\.(?:weight|bias))", r"head.unet.\1"),
    (r"(?:[\w]+\.)*?(fc\.(?:weight|bias))", r"head.\1"),
]
