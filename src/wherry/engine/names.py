"""Names for containers that were given none: an adjective and somebody or something of the sea and its boats."""

from __future__ import annotations

import re
import secrets

from wherry.errors import InvalidArgument

_ADJECTIVES = """able airy amber ample apt arctic azure blithe bold brave breezy bright brisk calm candid cheery clear clever cosy crisp
curious daring deft eager early easy fair fearless fleet fond frank free fresh gentle glad golden grand happy hardy hearty honest humble
jolly keen kind lively lucid lucky merry mild modest neat nimble noble patient placid plucky polite proud quick quiet ready sage salty
serene sharp silent silver simple sleek snug solid spry steady sturdy sunny swift tidal tidy trim true vivid warm willing wise witty""".split()

_NOUNS = """albatross anchor avocet barge bargee barnacle beacon binnacle bittern bollard bosun bowline brig buoy capstan caravel catamaran
clipper cockle coracle cormorant corvette curlew cutter davit dinghy dolphin dory drifter dunlin estuary fathom felucca ferry fender fisher
frigate gaff galleon gannet gig grebe gull halyard harbour hawser heron jetty junk kayak keel ketch kittiwake launch lighter limpet lugger
mackerel mariner marlin mizzen mooring narwhal oar osprey otter oyster paddle pelican petrel pier pilot pinnace plover porpoise proa puffin
punt quay raft reef rigger rudder sampan sandpiper schooner scow scull seal shearwater shoal skerry skiff skipper sloop spinnaker spray
starboard stern tern tide tiller trawler tug turnstone voyager whaler wherryman windlass yawl""".split()

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


def generate() -> str:
    """A random name; the caller tries again when it is taken."""
    return f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}"


def check(name: str) -> str:
    """The name without its leading slash. InvalidArgument in Docker's words."""
    bare = name.removeprefix("/")
    if not _NAME.match(bare) or len(bare) > 255:
        raise InvalidArgument(f"Invalid container name ({name[:300]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare
