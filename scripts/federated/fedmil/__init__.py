"""Attention-based multiple-instance learning over paraffin's features, trained across sites that never share a slide.

`model` is the network, `bags` a site's features and labels, `task` a site's part of a round, `privacy` the noise and
its accounting, `preflight` the question whether the sites' features may be trained on together. `flower` and `flare`
are the engines' apps: they move what these produce, and hold no arithmetic of their own.
"""
