raise ModuleNotFoundError(f"{__name__} is absent", name=__name__)
