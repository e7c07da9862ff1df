"""The study's practical investigations (chapter 2), measured again: Tables 3 to 9."""
