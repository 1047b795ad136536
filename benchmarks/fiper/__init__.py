"""FIPER reproduced: failures of a generative robot policy, predicted from safe rollouts alone."""
