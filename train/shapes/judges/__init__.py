"""How the embedded judges are trained; the command is train/shapes/train_judges.py."""
