"""What command lines share: types of arguments and tables; imports neither torch nor timm at import time."""
