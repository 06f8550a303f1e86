"""Files written whole under content keys, in a folder or in an object store."""
