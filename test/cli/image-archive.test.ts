/** Tar archives as images: the same tree as from the directory, whoever wrote them; hostile ones are refused. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { MeshError } from '../../src/base/errors.ts'
import { FileProgress } from '../../src/cli/image/progress.ts'
import { readArchive, Spool } from '../../src/cli/image/read-archive.ts'
import { Upload } from '../../src/cli/upload.ts'
import { collectBytes } from '../../src/files/collect-bytes.ts'
import { LeftOut } from '../../src/files/image/left-out.ts'
import { readDirectory } from '../../src/files/image/read-directory.ts'
import { sha256 } from '../../src/wire/digest.ts'
import type { Entry } from '../../src/wire/tree.ts'
import { ManualClock } from '../node/manual-clock.ts'
import { SILENT } from './silent-output.ts'

const directory = mkdtempSync(join(tmpdir(), 'mesh-archive-'))
after(() => rmSync(directory, { recursive: true, force: true }))

const root = join(directory, 'root')
mkdirSync(join(root, 'usr/bin'), { recursive: true })
mkdirSync(join(root, 'empty'))
mkdirSync(join(root, 'proc'))
const LONG = 'n'.repeat(120)
mkdirSync(join(root, LONG, LONG), { recursive: true })
writeFileSync(join(root, LONG, LONG, `${LONG}-ü`), 'deep')
writeFileSync(join(root, 'usr/bin/tool'), '#!/bin/sh\n', { mode: 0o755 })
writeFileSync(join(root, 'big'), Buffer.alloc(300_000, 'abcdefg'))
writeFileSync(join(root, 'none'), '')
linkSync(join(root, 'usr/bin/tool'), join(root, 'usr/bin/hard'))
symlinkSync(`/${LONG}/${LONG}/${LONG}-ü`, join(root, 'link'))
symlinkSync('usr/bin', join(root, 'bin'))

async function* pieces(bytes: Uint8Array, length = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += length) yield bytes.subarray(at, at + length)
}

async function take(
  bytes: Uint8Array,
  length?: number,
): Promise<{ entry: Entry; upload: Upload; leftOut: LeftOut; spool: Spool }> {
  const upload = new Upload()
  const leftOut = new LeftOut()
  const spool = new Spool()
  const progress = new FileProgress({ clock: new ManualClock(), stderr: SILENT }, 'read')
  try {
    const entry = await readArchive({ upload, leftOut, progress, spool }, pieces(bytes, length))
    return { entry, upload, leftOut, spool }
  } catch (error) {
    spool[Symbol.dispose]()
    throw error
  }
}

const tarOf = (...args: readonly string[]): Buffer =>
  execFileSync('tar', [...args, '-C', root, '-cf', '-', '.'], { maxBuffer: 1 << 26 })

const fromDirectory = readDirectory({ sink: new Upload().sink, leftOut: new LeftOut() }, root, {
  skipsUnreadable: false,
})

for (const format of ['gnu', 'pax'] as const)
  test(`image-archive: what tar writes as ${format} is the tree of the directory`, async () => {
    const { entry, upload, spool } = await take(tarOf(`--format=${format}`))
    using _ = spool
    assert.deepEqual(entry, await fromDirectory)
    const big = readFileSync(join(root, 'big'))
    const blob = upload.find(sha256(big))
    assert(blob !== undefined)
    assert.ok(Buffer.from(await collectBytes(blob.open(), big.byteLength)).equals(big))
  })

test('image-archive: a long path in two fields of ustar is one path', async () => {
  const place = join(directory, 'ustar')
  mkdirSync(join(place, 'p'.repeat(90), 'q'.repeat(60)), { recursive: true })
  writeFileSync(join(place, 'p'.repeat(90), 'q'.repeat(60), 'file'), 'x')
  const args = ['--format=ustar', '-C', place, '-cf', '-', '.']
  const { entry, spool } = await take(execFileSync('tar', args))
  using _ = spool
  const to = { sink: new Upload().sink, leftOut: new LeftOut() }
  assert.deepEqual(entry, await readDirectory(to, place, { skipsUnreadable: false }))
})

for (const [name, compress] of [
  ['gzip', gzipSync],
  ['zstd', zstdCompressSync],
  ['xz', byProgram('xz')],
  ['bzip2', byProgram('bzip2')],
] as const)
  test(`image-archive: ${name} is told by its first bytes`, async (t) => {
    const compressed = compress(tarOf('--format=gnu'))
    if (compressed === undefined) {
      t.skip(`${name} is not on this machine`)
      return
    }
    const { entry, spool } = await take(compressed, 777)
    using _ = spool
    assert.deepEqual(entry, await fromDirectory)
    await refused(compressed.subarray(0, compressed.byteLength - 200), /cannot be read/)
  })

function byProgram(program: string): (bytes: Uint8Array) => Buffer | undefined {
  return (bytes) => {
    const { stdout, error } = spawnSync(program, ['-c'], { input: bytes, maxBuffer: 1 << 26 })
    return error === undefined ? stdout : undefined
  }
}

/** One header of a tar archive, with what follows it. */
function header(
  path: string,
  { type = '0', target = '', body = '', mode = '0000644' } = {},
): Buffer {
  const head = Buffer.alloc(512)
  head.write(path, 0, 100)
  head.write(`${mode}\0`, 100)
  head.write(`${body.length.toString(8).padStart(11, '0')}\0`, 124)
  head.write(type, 156)
  head.write(target, 157, 100)
  head.write('ustar\u000000', 257, 'latin1')
  head.fill(32, 148, 156)
  const sum = head.reduce((all, byte) => all + byte, 0)
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  const padded = Buffer.alloc(Math.ceil(body.length / 512) * 512)
  padded.write(body)
  return Buffer.concat([head, padded])
}
const END = Buffer.alloc(1024)

async function refused(bytes: Uint8Array, message: RegExp, code = 'MESH0207'): Promise<void> {
  await assert.rejects(take(bytes), (error) => {
    assert.ok(error instanceof MeshError, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, message)
    return true
  })
}

test('image-archive: no path climbs out, and none goes through a link', async () => {
  const file = { body: 'x' }
  await refused(Buffer.concat([header('../etc/passwd', file), END]), /no image may have/)
  await refused(Buffer.concat([header('a/../../b', file), END]), /no image may have/)
  await refused(
    Buffer.concat([header('a', { type: '2', target: '/etc' }), header('a/passwd', file), END]),
    /which is a symbolic link in it/,
  )
  await refused(
    Buffer.concat([header('a', file), header('a/b', file), END]),
    /which is a file in it/,
  )
  await refused(
    Buffer.concat([header('a', { type: '1', target: '../../etc/shadow' }), END]),
    /no image may have/,
  )
  await refused(
    Buffer.concat([header('a', { type: '1', target: 'later' }), header('later', file), END]),
    /does not come before it/,
  )
  await refused(Buffer.concat([header('a', { type: '2' }), END]), /no target/)
  await refused(Buffer.from('this is no archive'.repeat(100)), /no tar archive/)
  await refused(END, /is empty/)
})

test('image-archive: an absolute path is one below the root; the last of equal names counts', async () => {
  const { entry, leftOut, spool } = await take(
    Buffer.concat([
      header('/etc/name', { body: 'first' }),
      header('./etc/name', { body: 'second', mode: '0000755' }),
      header('dev/tty', { type: '3' }),
      header('etc/tty', { type: '3' }),
      header('dev/', { type: '5' }),
      END,
    ]),
  )
  using _ = spool
  const again = await take(
    Buffer.concat([
      header('dev', { type: '5' }),
      header('etc/name', { body: 'second', mode: '0000755' }),
      END,
    ]),
  )
  again.spool[Symbol.dispose]()
  assert.deepEqual(entry, again.entry)
  assert.deepEqual(leftOut.counts, { system: 1, device: 1 })
})

test('image-archive: whatever is cut off or changed, it is an image or an error that says so', async () => {
  const whole = Buffer.concat([
    header('usr/', { type: '5' }),
    header('usr/a', { body: 'a'.repeat(700) }),
    header('././@LongLink', { type: 'L', body: `usr/${'l'.repeat(150)}\0` }),
    header('short', { body: 'b' }),
    header('x', { type: 'x', body: '19 path=usr/umlaut\n' }),
    header('x', { body: 'c' }),
    END,
  ])
  await fc.assert(
    fc.asyncProperty(
      fc.nat(whole.byteLength),
      fc.array(fc.tuple(fc.nat(whole.byteLength - 1), fc.nat(255)), { maxLength: 4 }),
      async (length, changes) => {
        const bytes = Buffer.from(whole)
        for (const [at, value] of changes) bytes[at] = value
        try {
          const { spool } = await take(bytes.subarray(0, length))
          spool[Symbol.dispose]()
        } catch (error) {
          assert.ok(error instanceof MeshError && error.code.startsWith('MESH02'), String(error))
        }
      },
    ),
    { numRuns: 300 },
  )
})
