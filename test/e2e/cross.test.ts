/**
 * One derivation for another system, built both ways: by the cross compiler of the machine, and with no
 * cross compiler in an emulated userland. Both programs run, and the attempts say which way they were made.
 */
import assert from 'node:assert/strict'
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { findTool } from '../../src/build/tool-path.ts'
import { readElf } from '../../src/files/elf.ts'
import { openMesh, submitted, type Desk } from './meshes.ts'

const GRAPH = `mesh = 1
[derivation.hello]
system = "aarch64-linux"
builder = "/bin/sh"
args = ["-c", 'mkdir $out && $CC -O2 -static "$src/hello.c" -o $out/hello && uname -m > $out/built-on']
env = { CC = "gcc" }
inputs.src = { path = "src" }
needs = { image = "arm64", tools = ["aarch64-linux-gnu-gcc"] }

[[derivation.hello.when]]
host = "x86_64-linux"
image = []
env = { CC = "aarch64-linux-gnu-gcc" }
`
/** The compiler is a program of the machine, in the middle of an emulated userland. */
const QUICK = `mesh = 1
[derivation.quick]
system = "aarch64-linux"
builder = "/bin/sh"
args = ["-c", 'mkdir $out && $CC -O2 -static "$src/hello.c" -o $out/hello && uname -m > $out/built-on && head -c 19 /usr/bin/$CC | tail -c 1 | od -An -tx1 > $out/compiler']
env = { CC = "gcc" }
inputs.src = { path = "src" }
needs = { image = "arm64" }

[[derivation.quick.when]]
host = "aarch64-linux"
machine = "x86_64-linux"
image = ["cross", "arm64"]
env = { CC = "aarch64-linux-gnu-gcc" }
`
/** `e_machine` of x86-64 (elf(5)). */
const X86_64 = '3e'

const SOURCE = `#include <stdio.h>
int main(void) { printf("hello of %d bits\\n", 8 * (int)sizeof(void *)); return 0; }
`

/** Made by scripts/arm64-userland.sh. */
const ARM64 = process.env['MESH_TEST_ARM64']

async function lacking(): Promise<string | undefined> {
  if (process.arch !== 'x64') return 'this machine is not x86_64'
  if (ARM64 === undefined) return 'MESH_TEST_ARM64 names no userland (scripts/arm64-userland.sh)'
  if (
    !(await access(join(ARM64, 'usr/bin/gcc')).then(
      () => true,
      () => false,
    ))
  )
    return `${ARM64} has no /usr/bin/gcc`
  for (const tool of ['aarch64-linux-gnu-gcc', 'qemu-aarch64-static'])
    if ((await findTool(tool)) === undefined) return `${tool} is not installed`
  return undefined
}

/** The program runs in an emulated image, and says what it is. */
async function runs(desk: Desk, directory: string): Promise<string> {
  const ran = await desk.mesh(
    'run',
    '--image',
    'arm64',
    '-i',
    `${directory}/hello/hello`,
    '--',
    `${directory}/hello/hello`,
  )
  assert.equal(ran.code, 0, ran.stderr)
  return ran.stdout
}

/** The machine's own cross compiler, laid over the emulated userland, takes the place of the emulated one. */
async function replaces(desk: Desk): Promise<void> {
  const captured = await desk.mesh(
    'image',
    'capture',
    '--no-base',
    'aarch64-linux-gnu-gcc',
    '--name',
    'cross',
  )
  assert.equal(captured.code, 0, captured.stderr)
  desk.write('quick.mesh.toml', QUICK)
  const built = await desk.mesh('submit', 'quick.mesh.toml', '--json', '-o', 'quick')
  assert.equal(built.code, 0, built.stdout + built.stderr)
  assert.equal(desk.read('quick/quick/built-on').trim(), 'aarch64')
  assert.equal(desk.read('quick/quick/compiler').trim(), X86_64)
  const [attempt] = (await desk.job('quick')).attempts
  assert.equal(attempt?.machine, 'x86_64-linux')
  const elf = readElf(join(desk.directory, 'quick/quick/hello'))
  assert.equal(elf?.system, 'aarch64-linux')
}

test(
  'cross: a derivation for aarch64 is built by the cross compiler and in an emulated userland',
  { timeout: 300_000 },
  async (t: TestContext) => {
    const reason = await lacking()
    if (reason !== undefined) {
      t.skip(reason)
      return
    }
    const made = new Map<string, string>()
    for (const [way, systems] of [
      ['cross', 'x86_64-linux'],
      ['emulated', 'aarch64-linux'],
    ] as const) {
      await using mesh = await openMesh(t)
      const root = await mesh.start({ name: 'root', role: 'root,store' })
      const worker = await mesh.start({
        name: way,
        role: 'worker,store',
        listen: 'none',
        parents: [root],
        args: ['--system', systems],
      })
      void worker
      const desk = mesh.desk(root)
      await desk.untilReady(way)
      desk.write('src/hello.c', SOURCE)
      desk.write('graph.mesh.toml', GRAPH)
      const put = await desk.mesh('image', 'put', 'arm64', ARM64 ?? '')
      assert.equal(put.code, 0, put.stderr)
      const built = await desk.mesh('submit', 'graph.mesh.toml', '--json', '-o', 'made')
      assert.equal(built.code, 0, built.stdout + built.stderr)
      assert.equal(submitted(built).jobs.built, 1)
      const elf = readElf(join(desk.directory, 'made/hello/hello'))
      assert.equal(elf?.system, 'aarch64-linux')
      const [attempt] = (await desk.job('hello')).attempts
      assert.equal(attempt?.arch, way === 'cross' ? 'x86_64' : 'aarch64', JSON.stringify(attempt))
      assert.match(attempt?.environment ?? '', way === 'cross' ? /namespace/ : /image/)
      made.set(way, desk.read('made/hello/built-on').trim())

      // A machine that runs both has it from the cache, for the mesh keeps what either way gave.
      const again = await desk.mesh('submit', 'graph.mesh.toml', '--json', '-o', 'made')
      assert.equal(
        submitted(again).jobs.cached,
        1,
        again.stdout + again.stderr + (await desk.mesh('jobs')).stdout,
      )
      if (way === 'emulated') {
        assert.equal(await runs(desk, 'made'), 'hello of 64 bits\n')
        await replaces(desk)
      } else {
        await mesh.start({
          name: 'other',
          role: 'worker,store',
          listen: 'none',
          parents: [root],
        })
        await desk.untilReady('other')
        assert.equal(await runs(desk, 'made'), 'hello of 64 bits\n')
      }
    }
    assert.deepEqual(
      [...made],
      [
        ['cross', 'x86_64'],
        ['emulated', 'aarch64'],
      ],
    )
  },
)
