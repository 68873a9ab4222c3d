"""System checks of the whole: their ids begin with mqadmin."""
