/** Tools of this machine packed into a tree: what they need comes along, and nothing is run that was not named. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { MeshError } from '../../src/base/errors.ts'
import { captureTools } from '../../src/cli/image/capture/capture.ts'
import type { Picked } from '../../src/cli/image/capture/picked.ts'
import { readElf } from '../../src/files/elf.ts'
import { elfFile } from '../files/elf-file.ts'
import { ManualClock } from '../node/manual-clock.ts'

const directory = mkdtempSync(join(tmpdir(), 'mesh-capture-'))
after(() => rmSync(directory, { recursive: true }))
const clock = new ManualClock()

function write(path: string, bytes: string | Uint8Array): string {
  const full = join(directory, path)
  mkdirSync(dirname(full), { recursive: true })
  writeFileSync(full, bytes)
  chmodSync(full, 0o755)
  return full
}

const filesOf = (picked: Picked): string[] =>
  [...picked.all].flatMap(([path, { kind }]) => (kind === 'file' ? [path] : []))

/** Where a program would find it in the image: the kernel's walk, over what was taken. */
function reaches(picked: Picked, path: string): boolean {
  let rest = path.split('/').filter((name) => name !== '')
  let here = ''
  for (let links = 0; rest.length > 0 && links < 40;) {
    const [name = '', ...below] = rest
    if (name === '..') {
      here = dirname(here)
      rest = below
      continue
    }
    const pick = picked.all.get(`${here === '/' ? '' : here}/${name}`)
    rest = below
    if (pick?.kind !== 'link') here = `${here === '/' ? '' : here}/${name}`
    else {
      links += 1
      rest = [...pick.target.split('/').filter((part) => part !== '' && part !== '.'), ...rest]
      if (pick.target.startsWith('/')) here = ''
    }
  }
  return picked.all.get(here)?.kind === 'file'
}

test('image-capture: a program comes with its loader and all libraries, under the paths that it knows', async () => {
  const { picked, warnings } = await captureTools({ clock }, [process.execPath], {
    hasBase: false,
    path: '/usr/bin:/bin',
  })
  assert.deepEqual(warnings, [])
  const elf = readElf(process.execPath)
  assert(elf?.interpreter !== undefined)
  assert.ok(reaches(picked, process.execPath))
  assert.ok(reaches(picked, elf.interpreter))
  const names = new Set([...picked.all.keys()].map((path) => path.split('/').at(-1) ?? ''))
  for (const name of elf.needed) assert.ok(names.has(name), `${name} was not taken`)
  // What the libraries need was taken as well.
  for (const path of filesOf(picked))
    for (const name of readElf(path)?.needed ?? [])
      assert.ok(names.has(name), `${name}, which ${path} needs, was not taken`)
  const isThere = (folder: string): boolean =>
    picked.all.get(folder)?.kind === 'dir' ||
    // The program itself may lie in it.
    [...picked.all.keys()].some((path) => path.startsWith(`${folder}/`))
  for (const folder of ['/tmp', '/proc', '/dev', '/build']) assert.ok(isThere(folder), folder)
})

test('image-capture: run paths, $ORIGIN, absolute and inherited ones are followed', async () => {
  const parts = { machine: 183, bits: 64, isLittle: true } as const
  const tool = write(
    'app/bin/tool',
    elfFile({ ...parts, needed: ['libone.so.1'], rpath: '$ORIGIN/../lib' }),
  )
  write('app/lib/libone.so.1.2', elfFile({ ...parts, needed: ['libtwo.so', 'libgone.so'] }))
  symlinkSync('libone.so.1.2', join(directory, 'app/lib/libone.so.1'))
  write('app/lib/libtwo.so', elfFile(parts))
  // Of another machine: not to be taken for the one that is meant.
  write('app/lib/libgone.so', elfFile({ ...parts, machine: 62 }))
  const { picked, warnings } = await captureTools({ clock }, [tool], {
    hasBase: false,
    path: undefined,
  })
  assert.ok(reaches(picked, join(directory, 'app/lib/libone.so.1')))
  assert.ok(reaches(picked, join(directory, 'app/lib/libtwo.so')))
  assert.deepEqual(warnings, [
    `libgone.so, which ${join(directory, 'app/lib/libone.so.1.2')} needs, was not found`,
  ])
})

test('image-capture: scripts bring their interpreters; what was not named is not run', async () => {
  const marker = join(directory, 'ran')
  const helper = write('bin/mesh-helper', `#!/bin/sh\ntouch ${marker}\n`)
  const script = write('bin/mesh-script', `#!/usr/bin/env -S mesh-helper -x\n`)
  const { picked, warnings } = await captureTools({ clock }, ['mesh-script'], {
    hasBase: false,
    path: `${dirname(script)}:/usr/bin:/bin`,
  })
  for (const path of [script, helper, '/usr/bin/env', '/bin/sh'])
    assert.ok(reaches(picked, path), `${path} was not taken`)
  assert.ok(!existsSync(marker), 'it was run')
  assert.match(warnings.join(), /mesh-script is at .*, where builds do not look/)
})

test('image-capture: linker scripts bring what they stand for; a directory is taken whole', async () => {
  const library = write('dev/libreal.so.5', elfFile({ machine: 62, bits: 64, isLittle: true }))
  write(
    'dev/tree/libreal.so',
    `/* GNU ld script */\nGROUP ( ${library} AS_NEEDED ( -lm ) libnear.a )\n`,
  )
  write('dev/tree/libnear.a', '!<arch>\n')
  write('dev/tree/deep/header.h', 'int x;')
  mkdirSync(join(directory, 'dev/tree/empty'))
  const { picked } = await captureTools({ clock }, [join(directory, 'dev/tree')], {
    hasBase: false,
    path: undefined,
  })
  assert.deepEqual(
    filesOf(picked)
      .map((path) => path.slice(directory.length + 1))
      .toSorted(),
    ['dev/libreal.so.5', 'dev/tree/deep/header.h', 'dev/tree/libnear.a', 'dev/tree/libreal.so'],
  )
  assert.equal(picked.all.get(join(directory, 'dev/tree/empty'))?.kind, 'dir')
})

test('image-capture: a tool that is not here is told, with where it was looked for', async () => {
  await assert.rejects(
    captureTools({ clock }, ['no-such-tool'], { hasBase: false, path: '/usr/bin' }),
    (error) =>
      error instanceof MeshError &&
      error.code === 'MESH0205' &&
      /looked in \/usr\/bin:\/bin/.test(error.hints.join()),
  )
})
