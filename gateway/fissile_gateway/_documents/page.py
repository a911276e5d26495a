from fissile._schemas import Json
PAGE_POLICY=""
def page(document: Json) -> str:
    return ""
