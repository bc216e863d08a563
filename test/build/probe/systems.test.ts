/** Whose programs run here: real trials, and what stands in their way (R10, T37, T90). */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { findTool } from '../../../src/build/tool-path.ts'
import { parseElf } from '../../../src/files/elf.ts'
import {
  probeAllSystems,
  probeSystems,
  systemOfKernel,
  type SystemsProbe,
} from '../../../src/build/probe/systems.ts'
import { registrationOf } from '../../../src/build/probe/emulators.ts'
import { ELF_KINDS } from '../../../src/build/probe/trial-program.ts'
import { makeRoot, programOf } from './roots.ts'

test('systems: trial programs are files of their systems', () => {
  for (const system of ELF_KINDS.keys()) {
    const elf = parseElf(programOf(system))
    assert.equal(elf?.system, system)
    assert.equal(elf.kind, 'executable')
    assert.equal(elf.interpreter, undefined)
  }
})

test('systems: the machine runs its own programs, and nothing is left behind', async () => {
  await using root = await makeRoot()
  const found = await probeSystems({ directory: root.path })
  assert.equal(found[0]?.how, 'native')
  assert.equal(found[0].system, systemOfKernel())
  assert.deepEqual(await readdir(root.path), [])
})

test('systems: names that kernels give themselves', () => {
  assert.equal(systemOfKernel('x86_64'), 'x86_64-linux')
  assert.equal(systemOfKernel('i586'), 'i686-linux')
  assert.equal(systemOfKernel('armv8l'), 'armv7l-linux')
  assert.equal(systemOfKernel('ppc64le'), 'powerpc64le-linux')
})

/** Of a system that this machine does not run by itself. */
const FOREIGN = systemOfKernel() === 's390x-linux' ? 'aarch64-linux' : 's390x-linux'
const EMULATOR = FOREIGN === 's390x-linux' ? 'qemu-s390x-static' : 'qemu-aarch64-static'

test('systems: an emulator that is installed runs foreign programs without a registration for all', async (t) => {
  const [emulator, unshare] = [await findTool(EMULATOR), await findTool('unshare')]
  if (emulator === undefined || unshare === undefined) {
    t.skip(`this machine has no ${emulator === undefined ? EMULATOR : 'unshare'}`)
    return
  }
  const found = await probeAllSystems()
  const foreign = found.runnable.find(({ system }) => system === FOREIGN)
  const why = found.others.find(({ system }) => system === FOREIGN)?.why
  // Kernels before 6.7 register for all machines' users or for nobody.
  if (foreign === undefined && /mount: .*(?:permission|permitted)/.test(why ?? '')) {
    t.skip(`this kernel has no private registrations: ${why}`)
    return
  }
  assert.equal(foreign?.how, 'emulated', why)
  if (foreign.registration !== undefined) {
    assert.equal(foreign.interpreter, emulator)
    assert.match(foreign.registration, /^:mesh-[a-z0-9_-]+:M::(?:\\x[0-9a-f]{2}){20}:/)
  }
})

test('systems: without emulators only the machine is left, and each other one says why', async () => {
  await using empty = await makeRoot()
  const { runnable, others } = await probeAllSystems({
    root: empty.path,
    searchPath: empty.path,
  })
  for (const { how } of runnable) assert.notEqual(how, 'emulated')
  assert.equal(runnable.length + others.length, ELF_KINDS.size)
  const why = others.find(({ system }) => system === FOREIGN)?.why
  assert.equal(why, 'neither registered with the kernel nor is qemu-user-static installed')
})

test('systems: registered, but the interpreter is missing: no claim, and the reason', async () => {
  await using root = await makeRoot({
    'proc/sys/fs/binfmt_misc/status': 'enabled\n',
    'proc/sys/fs/binfmt_misc/register': '',
    'proc/sys/fs/binfmt_misc/gone': `enabled
interpreter /usr/bin/no-such-emulator
flags: OC
offset 0
magic ${programOf(FOREIGN).subarray(0, 20).toString('hex')}
mask ${'ff'.repeat(20)}
`,
  })
  const { runnable, others } = await probeAllSystems({ root: root.path, searchPath: root.path })
  assert(!runnable.some(({ system }) => system === FOREIGN))
  const why = others.find(({ system }) => system === FOREIGN)?.why ?? ''
  assert.match(why, /^registered as gone for \/usr\/bin\/no-such-emulator \(flags OC\): /)
  assert.match(why, /nor is qemu-user-static installed$/)
})

test('systems: a program that ends as a trial should but runs none of it is no emulator', async (t) => {
  if ((await findTool('unshare')) === undefined) {
    t.skip('this machine has no unshare')
    return
  }
  await using root = await makeRoot()
  // Started for the trial it is given arguments, which the trial does not have.
  const liar = join(root.path, EMULATOR)
  await writeFile(liar, programOf(systemOfKernel()))
  await chmod(liar, 0o755)
  const { others } = await probeAllSystems({ root: root.path, searchPath: root.path })
  const why = others.find(({ system }) => system === FOREIGN)?.why ?? ''
  assert.match(why, /is installed, but: /)
})

test('systems: where user namespaces are forbidden nothing foreign is claimed', async (t) => {
  const unshare = await findTool('unshare')
  if (unshare === undefined) {
    t.skip('this machine has no unshare')
    return
  }
  const child = join(import.meta.dirname, 'probe-child.ts')
  const forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
  const node = [process.execPath, '--conditions=source', child]
  let stdout: string
  try {
    const ran = await promisify(execFile)(unshare, [
      ...['--user', '--map-root-user', '--', '/bin/sh', '-c', forbid, 'sh', ...node],
    ])
    stdout = ran.stdout
  } catch (error) {
    t.skip(`this machine lets nobody make a user namespace to forbid others in: ${String(error)}`)
    return
  }
  const told: { systems: SystemsProbe; user: { ok: boolean; why: string } } = JSON.parse(stdout)
  assert.equal(told.user.ok, false)
  assert.match(told.user.why, /^unshare --user --map-root-user: unshare: /)
  const emulated = told.systems.runnable.filter(
    ({ how, registration }) => how === 'emulated' && registration !== undefined,
  )
  assert.deepEqual(emulated, [])
  assert.equal(told.systems.runnable[0]?.how, 'native')
})

/** Registers in a namespace of its own, as a machine would for all, and starts the rest of its words. */
const REGISTERED = `mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 3
printf %s "$1" > /proc/sys/fs/binfmt_misc/register || exit 3
shift
exec "$@"`

test('systems: what the kernel has registered counts where it is found from inside of any root', async (t) => {
  const [emulator, unshare] = [await findTool(EMULATOR), await findTool('unshare')]
  if (emulator === undefined || unshare === undefined) {
    t.skip(`this machine has no ${emulator === undefined ? EMULATOR : 'unshare'}`)
    return
  }
  const child = join(import.meta.dirname, 'probe-child.ts')
  const line = registrationOf(FOREIGN, { path: emulator, flags: 'F' })
  for (const [registration, isForAll] of [
    [line, true],
    [line.replace(/F$/, ''), false],
    [line.replace(emulator, '/no/such/emulator').replace(/F$/, ''), false],
  ] as const) {
    let stdout: string
    try {
      const ran = await promisify(execFile)(unshare, [
        ...['--user', '--map-root-user', '--mount', '--', '/bin/sh', '-c', REGISTERED, 'sh'],
        ...[registration, process.execPath, '--conditions=source', child],
      ])
      stdout = ran.stdout
    } catch (error) {
      t.skip(`this kernel has no private registrations: ${String(error)}`)
      return
    }
    const { systems }: { systems: SystemsProbe } = JSON.parse(stdout)
    const found = systems.runnable.find(({ system }) => system === FOREIGN)
    assert.equal(found?.how, 'emulated')
    assert.equal(found.registration === undefined, isForAll, found.why)
  }
})
