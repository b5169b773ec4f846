"""Signatures of images, and the policy that says which images are let in.

Signatures have cosign's format: a small JSON document that names repository and digest, signed by a key, kept in the registry beside the image.
The policy is a containers-policy.json. In wherryd (pull, run) and in the command line (sign, verify)."""
