"""A client of a server of OpenAI's form that follows no redirect and reads no answer without an end."""

import httpx2
import openai

_LARGEST = 2**20  # bytes of an answer; one of 8 tokens, with 20 others for each, has about 20,000


def bounded_client(url: str, key: str, retries: int, seconds: float) -> openai.AsyncOpenAI:
    """A client whose requests raise ValueError for an answer that is compressed, or has more than a megabyte."""
    http_client = openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_bound]})
    # Given as a header, the key gives way to no other of the environment.
    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
    settings = dict(max_retries=retries, timeout=seconds, default_headers=headers, http_client=http_client)
    return openai.AsyncOpenAI(base_url=url, api_key="-", **settings)


async def _bound(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("the server's answer is compressed, which it was asked not to be")
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream):
        self._stream, self.aclose = stream, stream.aclose

    async def __aiter__(self):
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > _LARGEST:
                raise ValueError(f"the server's answer has more than {_LARGEST:,} bytes")
            yield part
