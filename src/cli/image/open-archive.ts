/**
 * The bytes of a tar archive, whatever it is compressed with, which its first bytes tell. gzip and zstd are
 * read here; for xz and bzip2 their own programs are asked, with no more memory than their largest levels take.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { hasCode, MeshError } from '../../base/errors.ts'

const MAGIC_BYTES = 6
const PROGRAMS: Readonly<Record<'xz' | 'bzip2', readonly string[]>> = {
  xz: ['--decompress', '--stdout', '--memlimit-decompress=2GiB'],
  bzip2: ['--decompress', '--stdout'],
}

/** What `source` holds, decompressed. Throws MESH0207 for bytes that no decompressor takes. */
export async function* openArchive(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const iterator = source[Symbol.asyncIterator]()
  const first: Uint8Array[] = []
  let length = 0
  while (length < MAGIC_BYTES) {
    const next = await iterator.next()
    if (next.done === true) break
    first.push(next.value)
    length += next.value.byteLength
  }
  const all = (async function* () {
    yield* first
    for (;;) {
      const next = await iterator.next()
      if (next.done === true) return
      yield next.value
    }
  })()
  const magic = Buffer.concat(first).subarray(0, MAGIC_BYTES)
  try {
    yield* decompressed(magic.toString('hex'), all)
  } catch (error) {
    if (error instanceof MeshError || !hasCode(error, ...DAMAGED)) throw error
    throw new MeshError('MESH0207', 'the archive cannot be read: its compression is damaged', {
      cause: error,
    })
  }
}

const DAMAGED = ['Z_DATA_ERROR', 'Z_BUF_ERROR', 'ZSTD_error_corruption_detected', 'ERR_ZSTD']

function decompressed(magic: string, source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  if (magic.startsWith('1f8b')) return through(source, createGunzip())
  if (magic.startsWith('28b52ffd')) return through(source, createZstdDecompress())
  if (magic === 'fd377a585a00') return byProgram('xz', source)
  if (magic.startsWith('425a68')) return byProgram('bzip2', source)
  return source
}

async function* through(
  source: AsyncIterable<Uint8Array>,
  stream: ReturnType<typeof createGunzip>,
): AsyncGenerator<Uint8Array> {
  const feeding = pipeline(Readable.from(source), stream).catch((error: unknown) => {
    stream.destroy(error instanceof Error ? error : new Error(String(error)))
  })
  for await (const piece of stream) if (piece instanceof Uint8Array) yield piece
  await feeding
}

async function* byProgram(
  program: 'xz' | 'bzip2',
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const child = spawn(program, PROGRAMS[program], { stdio: ['pipe', 'pipe', 'pipe'] })
  const said: Buffer[] = []
  child.stderr.on('data', (piece: Buffer) => {
    if (said.length < 16) said.push(piece)
  })
  const ended = once(child, 'close')
  // Whoever reads is told by the exit code; a child that ends early breaks the pipe to it.
  const feeding = pipeline(Readable.from(source), child.stdin).catch(() => undefined)
  try {
    await once(child, 'spawn')
    for await (const piece of child.stdout) if (piece instanceof Uint8Array) yield piece
    await feeding
    const [code] = await ended
    if (code !== 0)
      throw new MeshError(
        'MESH0207',
        `the archive cannot be read: ${program} says ${JSON.stringify(Buffer.concat(said).toString('utf8').trim().slice(0, 500))}`,
      )
  } catch (error) {
    ended.catch(() => undefined)
    if (!hasCode(error, 'ENOENT')) throw error
    throw new MeshError(
      'MESH0207',
      `the archive is compressed with ${program}, which is not here`,
      {
        hints: [
          `install ${program === 'xz' ? 'xz-utils' : 'bzip2'}, or give the archive without it`,
        ],
        cause: error,
      },
    )
  } finally {
    child.kill('SIGKILL')
  }
}
