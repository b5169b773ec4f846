"""Print the requirements of the named extras of pyproject.toml, one a line, for pip."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
print("\n".join(requirement.replace(" ", "") for name in sys.argv[1:] for requirement in extras[name]))
