"""What can be wrong with a request or a bundle, each with its own code, type and one clear sentence."""


class RequestError(Exception):
    """A request that can't be met. `code` is the HTTP status; the class's name is the `type` in the answer."""

    code = 400

    @property
    def type(self) -> str:
        return type(self).__name__

    @property
    def message(self) -> str:
        return str(self)


class EmptyBody(RequestError):
    """No picture came with the request."""


class MalformedJSON(RequestError):
    """The body says it is JSON and is not, or its fields have the wrong shape."""


class UnknownOption(RequestError):
    """An option that this endpoint does not have."""


class OptionOutOfRange(RequestError):
    """A known option with a value it can't take."""


class TooLarge(RequestError):
    """The picture has more bytes than allowed."""

    code = 413


class TooManyImages(RequestError):
    """The request holds more pictures than allowed."""

    code = 413


class TooManyPixels(RequestError):
    """The picture is larger than the cap on pixels, found before it is decoded."""

    code = 413


class UnsupportedMedia(RequestError):
    """The content type is not one that carries a picture."""

    code = 415


class InvalidImage(RequestError):
    """The bytes are no readable picture."""

    code = 422


class InternalError(RequestError):
    """A fault of this program, not of the caller: the log has its traceback."""

    code = 500


class OutOfMemory(RequestError):
    """The server has too little memory for this picture, with nothing beside it."""

    code = 507


class BundleError(Exception):
    """A model bundle that can't be loaded: a missing, damaged or mismatched file."""


REQUEST_ERRORS: tuple[type[RequestError], ...] = (
    EmptyBody,
    MalformedJSON,
    UnknownOption,
    OptionOutOfRange,
    TooLarge,
    TooManyImages,
    TooManyPixels,
    UnsupportedMedia,
    InvalidImage,
    InternalError,
    OutOfMemory,
)
