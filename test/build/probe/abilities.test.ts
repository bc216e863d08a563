/** What the machine lets a process do, tried; and what stands in the way, in its exact words (T90). */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { NAMESPACES, probeAbilities, probeKvm } from '../../../src/build/probe/abilities.ts'
import { CONTROLLERS, probeCgroups } from '../../../src/build/probe/cgroups.ts'
import { probeEngines } from '../../../src/build/probe/engines.ts'
import { readDisk, readProcessor } from '../../../src/build/probe/hardware.ts'
import { findTool } from '../../../src/build/tool-path.ts'
import { makeRoot, put } from './roots.ts'

test('abilities: each is told with what showed it, or with the error', async (t) => {
  const unshare = await findTool('unshare')
  if (unshare === undefined) {
    t.skip('this machine has no unshare')
    return
  }
  await using root = await makeRoot()
  const { namespaces, chroot, overlay } = await probeAbilities({ directory: root.path })
  assert.deepEqual(Object.keys(namespaces), [...NAMESPACES])
  for (const ability of [...Object.values(namespaces), chroot, ...Object.values(overlay)])
    assert.notEqual(ability.why, '')
  let works = true
  try {
    execFileSync(unshare, ['--user', '--map-root-user', 'true'], { stdio: 'ignore' })
  } catch {
    works = false
  }
  assert.equal(namespaces.user.ok, works, namespaces.user.why)
  assert.deepEqual(await readdir(root.path), [])
})

test('kvm: no device, and one that is none', async (t) => {
  await using root = await makeRoot({ 'dev/kvm': '' })
  const absent = join(root.path, 'no-kvm')
  assert.deepEqual(await probeKvm({ device: absent }), { ok: false, why: `there is no ${absent}` })
  if ((await findTool('perl')) === undefined && (await findTool('python3')) === undefined) {
    t.skip('this machine has neither perl nor python3')
    return
  }
  const device = join(root.path, 'dev/kvm')
  const plain = await probeKvm({ device })
  assert.equal(plain.ok, false)
  assert.match(plain.why, /: KVM_GET_API_VERSION: Inappropriate ioctl for device$/)
})

test('kvm: a device that is there but may not be opened is not claimed', async (t) => {
  if (process.geteuid?.() !== 0) {
    t.skip('not root: no other user to try it as')
    return
  }
  await using root = await makeRoot({ 'dev/kvm': '' })
  const found = await probeKvm({ device: join(root.path, 'dev/kvm'), uid: 65_534 })
  assert.equal(found.ok, false)
  assert.match(found.why, /open: Permission denied$/)
})

test('cgroups: none, and controllers that groups are not given', async () => {
  await using bare = await makeRoot()
  const none = await probeCgroups(bare.path)
  assert.equal(none.version, 'none')
  for (const name of CONTROLLERS)
    assert.deepEqual(none.controllers[name], {
      ok: false,
      why: 'no hierarchy of it is mounted',
    })
  await using v2 = await makeRoot({
    'proc/self/cgroup': '0::/user.slice/mesh\n',
    'proc/self/mountinfo': '30 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n',
    'sys/fs/cgroup/user.slice/mesh/cgroup.procs': '1\n',
  })
  const found = await probeCgroups(v2.path)
  assert.equal(found.version, 'v2')
  assert.deepEqual(found.controllers.memory, {
    ok: false,
    why: 'v2: groups here have no memory.max',
  })
  assert.deepEqual(await readdir(join(v2.path, 'sys/fs/cgroup/user.slice')), ['mesh'])
})

test('cgroups: a container that sees less than its own path; both versions side by side', async () => {
  await using root = await makeRoot({
    'proc/self/cgroup': '4:memory:/docker/abc\n3:cpu,cpuacct:/\n0::/\n',
    'proc/self/mountinfo': [
      '31 24 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory',
      '32 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct',
      '33 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw',
      '',
    ].join('\n'),
  })
  await put(root.path, {
    'sys/fs/cgroup/memory/tasks': '',
    'sys/fs/cgroup/cpu,cpuacct/tasks': '',
    'sys/fs/cgroup/unified/cgroup.procs': '',
  })
  const { version, controllers } = await probeCgroups(root.path)
  assert.equal(version, 'both')
  assert.equal(controllers.memory.why, 'v1: groups here have no memory.limit_in_bytes')
  assert.equal(controllers.cpu.why, 'v1: groups here have no cpu.cfs_quota_us')
  assert.equal(controllers.pids.why, 'v2: groups here have no pids.max')
})

test('cgroups: of this machine, and no group is left', async () => {
  const { controllers } = await probeCgroups()
  for (const { ok, why } of Object.values(controllers)) {
    const directory = ok ? why.slice(why.indexOf(' in ') + 4) : undefined
    if (directory === undefined) continue
    const left = (await readdir(directory)).filter((name) => name.startsWith('mesh-probe-'))
    assert.deepEqual(left, [])
  }
})

test('engines: one whose daemon does not answer is no engine', async () => {
  await using root = await makeRoot({
    docker: '#!/bin/sh\necho "Cannot connect to the daemon" >&2; exit 1\n',
    podman: '#!/bin/sh\necho 4.3.1\n',
    nerdctl: '#!/bin/sh\necho nothing to say\n',
  })
  for (const name of ['docker', 'podman', 'nerdctl'])
    execFileSync('chmod', ['755', join(root.path, name)])
  assert.deepEqual(await probeEngines(root.path), [
    { name: 'docker', version: '', ok: false, why: 'Cannot connect to the daemon' },
    { name: 'podman', version: '4.3.1', ok: true, why: join(root.path, 'podman') },
    { name: 'nerdctl', version: '', ok: false, why: 'it told no version' },
  ])
})

test('hardware: processors of different makers, and a disk whose directory is not there yet', async () => {
  const cases = [
    ['model name\t: Xeon\nflags\t\t: fpu vmx\n', 'Xeon', ['fpu', 'vmx']],
    ['Processor\t: ARMv7\nFeatures\t: neon vfpv4 \n', 'ARMv7', ['neon', 'vfpv4']],
    ['isa\t\t: rv64imafdc\n', '', ['rv64imafdc']],
    ['', '', []],
  ] as const
  for (const [text, model, flags] of cases) {
    await using root = await makeRoot({ 'proc/cpuinfo': text })
    const found = await readProcessor(root.path)
    assert.equal(found.model.value, model)
    assert.deepEqual(found.flags.value, flags)
  }
  await using root = await makeRoot()
  const disk = await readDisk(join(root.path, 'not/yet'))
  assert.equal(disk.how, `statfs ${root.path}`)
  assert(disk.value.freeBytes > 0 && disk.value.freeBytes <= disk.value.totalBytes)
  assert.match(await readFile('/proc/cpuinfo', 'utf8'), /\S/)
})
