"""Teachers from outside: their cards, the checks of where they come from, safe loading, and the choice among them."""
