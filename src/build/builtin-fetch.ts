/** `builtin:fetch`: the worker itself gets a declared source from one of its URLs and checks its sha256. */
import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { fetch } from 'undici'
import { messageOf } from '../base/errors.ts'
import { Hasher, type Digest } from '../wire/digest.ts'

/** The largest source that is fetched from a URL. */
const SOURCE_BYTES_MAX = 64 * 1024 ** 3

export type FetchEnd =
  | { readonly kind: 'fetched' }
  /** A server gave other bytes than declared: the derivation or the server is wrong, and a retry does not help. */
  | { readonly kind: 'wrong'; readonly message: string }
  | { readonly kind: 'unreachable'; readonly message: string }

/**
 * Writes the source to `path`, trying the URLs in turn. `mirror:///NAME` stands for NAME at each mirror.
 * `say` gets a line for people about each try.
 */
export async function fetchSource(
  options: {
    readonly urls: readonly string[]
    readonly mirrors: readonly string[]
    readonly sha256: Digest
    readonly path: string
    readonly signal: AbortSignal
  },
  say: (line: string) => void,
): Promise<FetchEnd> {
  const urls = options.urls.flatMap((url) =>
    url.startsWith('mirror:///')
      ? options.mirrors.map(
          (mirror) => `${mirror.replace(/\/+$/, '')}/${url.slice('mirror:///'.length)}`,
        )
      : [url],
  )
  const results: string[] = []
  let wrong: string | undefined
  for (const url of urls) {
    options.signal.throwIfAborted()
    say(`fetching ${url}`)
    let outcome: { readonly got: Digest } | { readonly error: string }
    try {
      outcome = await fetchOne(url, options.path, options.signal)
    } catch (error) {
      options.signal.throwIfAborted()
      outcome = {
        error:
          error instanceof Error && error.cause !== undefined
            ? messageOf(error.cause)
            : messageOf(error),
      }
    }
    if ('got' in outcome && outcome.got === options.sha256) return { kind: 'fetched' }
    const line =
      'got' in outcome
        ? `${url}: sha256 is ${outcome.got}, declared is ${options.sha256}`
        : `${url}: ${outcome.error}`
    if ('got' in outcome) wrong ??= line
    say(line)
    results.push(line)
  }
  if (wrong !== undefined) return { kind: 'wrong', message: wrong }
  return {
    kind: 'unreachable',
    message:
      results.length === 0 ? 'no mirror is configured for mirror:/// URLs' : results.join('; '),
  }
}

async function fetchOne(
  url: string,
  path: string,
  signal: AbortSignal,
): Promise<{ readonly got: Digest } | { readonly error: string }> {
  const { protocol } = new URL(url)
  if (protocol !== 'http:' && protocol !== 'https:')
    return { error: `${protocol} is not fetched, only http: and https:` }
  const response = await fetch(url, { signal, redirect: 'follow' })
  if (response.status !== 200 || response.body === null) {
    await response.body?.cancel()
    return { error: `HTTP status ${response.status}` }
  }
  const hasher = new Hasher()
  let size = 0
  const { body } = response
  async function* hashed(): AsyncIterable<Uint8Array> {
    for await (const chunk of body) {
      size += chunk.byteLength
      if (size > SOURCE_BYTES_MAX) throw new RangeError(`more than ${SOURCE_BYTES_MAX} bytes`)
      hasher.update(chunk)
      yield chunk
    }
  }
  await pipeline(hashed(), createWriteStream(path, { flags: 'w' }), { signal })
  return { got: hasher.digest() }
}
