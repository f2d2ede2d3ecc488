"""The registered names: ABNs, CAM baselines, backbones for 32x32 images, the authors' checkpoints, and loading."""
