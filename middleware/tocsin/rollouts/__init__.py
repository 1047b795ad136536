"""The counts of a rollout, and files that make other controllers gate it: Argo Rollouts, Flagger."""
