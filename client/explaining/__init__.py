"""From a network and a site's patients to the sums of explanations that may leave the site."""
