"""Classes as formats of JSON answers. msgspec and pydantic are loaded only for a class that needs them."""
