"""The recipe of a training of seconds."""

TINY_TOML = """
torch_threads = 1
checkpoint_minutes = 0
[data]
train_clips = 6
vae_clips = 6
first_clips = 3
clips_per_step = 1
shard_clips = 2
processes_beside = 1
[vae]
widths = [8, 8, 8, 8]
batch = 1
crop_columns = 16
steps = 2
[unet]
widths = [16, 16]
heads = 2
text_width = 16
text_layers = 1
batch = 2
steps = 3
warm_up_steps = 1
naming_steps = 2
"""
