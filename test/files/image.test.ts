/** Directories as images: what is left out, and what is found by looking into a tree. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { MeshError } from '../../src/base/errors.ts'
import { Upload } from '../../src/cli/upload.ts'
import { describeImage } from '../../src/files/image/describe.ts'
import { Inside } from '../../src/files/image/inside.ts'
import { LeftOut } from '../../src/files/image/left-out.ts'
import { readDirectory } from '../../src/files/image/read-directory.ts'
import type { ReadBlob } from '../../src/files/lay-out.ts'
import type { Entry } from '../../src/wire/tree.ts'
import { elfFile } from './elf-file.ts'

const directory = mkdtempSync(join(tmpdir(), 'mesh-image-test-'))
after(() => rmSync(directory, { recursive: true, force: true }))

/** A small root file system, merged as Debian's, with a shell for aarch64. */
function rootOf(name: string): string {
  const root = join(directory, name)
  const write = (path: string, bytes: string | Uint8Array): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), bytes)
  }
  write('usr/bin/dash', elfFile({ machine: 183, bits: 64, isLittle: true }))
  chmodSync(join(root, 'usr/bin/dash'), 0o755)
  symlinkSync('dash', join(root, 'usr/bin/sh'))
  symlinkSync('usr/bin', join(root, 'bin'))
  write('usr/lib/os-release', 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n')
  mkdirSync(join(root, 'etc'))
  symlinkSync('/usr/lib/os-release', join(root, 'etc/os-release'))
  write('proc/cpuinfo', 'of a kernel')
  write('dev/null', 'a file where a device should be')
  write('run/lock/x', '')
  mkdirSync(join(root, 'sys'))
  return root
}

async function read(
  root: string,
): Promise<{ entry: Entry; upload: Upload; leftOut: LeftOut; read: ReadBlob }> {
  const upload = new Upload()
  const leftOut = new LeftOut()
  const options = { skipsUnreadable: false }
  const entry = await readDirectory({ sink: upload.sink, leftOut }, root, options)
  return {
    entry,
    upload,
    leftOut,
    read(ref) {
      const blob = upload.find(ref.digest)
      assert(blob !== undefined)
      return blob.open()
    },
  }
}

test('image: system and label are found through links that are absolute inside of it', async () => {
  const { entry, read: reader } = await read(rootOf('arm'))
  const image = await describeImage(reader, entry, undefined)
  assert.equal(image.system, 'aarch64-linux')
  assert.equal(image.label, 'debian-12')
  assert.equal(image.sizeBytes, 4096 + 50)
  assert.equal((await describeImage(reader, entry, 'any')).system, 'any')
})

test('image: contents of /dev, /proc, /run, sockets and pipes are left out and counted', async () => {
  const root = rootOf('odd')
  const server = createServer().listen(join(root, 'etc/socket'))
  await once(server, 'listening')
  execFileSync('mkfifo', [join(root, 'etc/pipe')])
  const { entry, leftOut, read: reader } = await read(root)
  server.close()
  assert.deepEqual(leftOut.counts, { system: 3, socket: 1, pipe: 1 })
  assert.equal(
    leftOut.line?.split(', ').toSorted().join('; '),
    '/proc; 1 pipe; 1 socket; /run and /sys; left out: 3 entries below /dev'
      .split('; ')
      .toSorted()
      .join('; '),
  )
  const inside = new Inside(reader, entry)
  assert.equal((await inside.find('/proc'))?.kind, 'dir')
  assert.equal(await inside.find('/proc/cpuinfo'), undefined)
  assert.equal(await inside.find('/etc/socket'), undefined)
})

test('image: an image without a program has no system unless somebody says it', async () => {
  const root = join(directory, 'data')
  mkdirSync(root)
  writeFileSync(join(root, 'file'), 'x')
  const { entry, read: reader } = await read(root)
  await assert.rejects(
    describeImage(reader, entry, undefined),
    (error) => error instanceof MeshError && error.code === 'MESH0203' && error.hints.length === 2,
  )
})

test('image: links that lead in a circle, out at the top, or to nothing end', async () => {
  const root = join(directory, 'links')
  mkdirSync(join(root, 'a/b'), { recursive: true })
  symlinkSync('y', join(root, 'x'))
  symlinkSync('x', join(root, 'y'))
  symlinkSync('../../../../a/b/file', join(root, 'a/b/up'))
  symlinkSync('/nowhere', join(root, 'gone'))
  writeFileSync(join(root, 'a/b/file'), 'here')
  const { entry, read: reader } = await read(root)
  const inside = new Inside(reader, entry)
  assert.equal(await inside.find('/x'), undefined)
  assert.equal(await inside.find('/gone'), undefined)
  assert.equal(await inside.find('/a/b/file/below'), undefined)
  assert.equal((await inside.find('/a/b/up'))?.kind, 'file')
  assert.equal(Buffer.from((await inside.read('/a/b/up', 100)) ?? []).toString(), 'here')
  assert.equal(await inside.read('/a/b/up', 3), undefined)
})

test('image: what this user may not read is refused with the way out, or left out', () => {
  const root = join(directory, 'secret')
  mkdirSync(root)
  writeFileSync(join(root, 'shadow'), 'x', { mode: 0o000 })
  chmodSync(directory, 0o755)
  // Root may read everything: then somebody else looks.
  const isRoot = process.getuid?.() === 0
  const told = execFileSync(process.execPath, [join(import.meta.dirname, 'unreadable.ts'), root], {
    encoding: 'utf8',
    env: { NODE_OPTIONS: '--conditions=source' },
    ...(isRoot ? { uid: 65_534, gid: 65_534 } : {}),
  })
  const { code, hints, counts } = JSON.parse(told)
  assert.equal(code, 'MESH0207')
  assert.match(hints.join(), /fakeroot.*--skip-unreadable/)
  assert.deepEqual(counts, { unreadable: 1 })
})
