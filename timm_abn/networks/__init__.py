"""AttentionBranchNet and its parts. ``network`` and ``attention_branch`` are the two files that tell the whole idea."""
