"""Errors of requests and bundles, each with an HTTP status, a type and one clear sentence."""


class RequestError(Exception):
    """A request that cannot be fulfilled.

    `code` is the HTTP status, the name of the class is the `type` in the response, and `str(error)` is its `message`.
    """

    code = 400

    @property
    def type(self) -> str:
        """Name of the error in responses, logs and metrics."""
        return type(self).__name__


class EmptyBody(RequestError):
    """The request has no image."""


class MalformedJSON(RequestError):
    """The body is declared to be JSON and is not, or its fields have the wrong type."""


class UnknownOption(RequestError):
    """The endpoint does not have such an option."""


class OptionOutOfRange(RequestError):
    """An option has an invalid value."""


class TooLarge(RequestError):
    """An image has more bytes than allowed."""

    code = 413


class TooManyImages(RequestError):
    """The request has more images than allowed."""

    code = 413


class TooManyPixels(RequestError):
    """An image has more pixels than allowed; it is rejected before it is decoded."""

    code = 413


class UnsupportedMedia(RequestError):
    """The content type cannot carry an image."""

    code = 415


class InvalidImage(RequestError):
    """The bytes are no readable image."""

    code = 422


class InternalError(RequestError):
    """A defect of the server, not of the request; the log has its traceback."""

    code = 500


class OutOfMemory(RequestError):
    """The server has too little memory for the image, even by itself."""

    code = 507


# Every error type of a response, in the order of documentation and metrics.
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


class BundleError(Exception):
    """A model bundle that cannot be loaded: a file is missing, damaged, or does not fit the others."""
