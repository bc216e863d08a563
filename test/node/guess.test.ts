/** `mesh-node guess-env`, as its users call it. */
import assert from 'node:assert/strict'
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { systemClock } from '../../src/base/clock.ts'
import type { ConfigIo } from '../../src/node/config/config-io.ts'
import { resolveConfig } from '../../src/node/config/resolve-config.ts'
import { guessEnv } from '../../src/node/guess/guess-env.ts'
import { EnvironmentJson } from '../../src/wire/environment.ts'
import { makeRoot } from '../build/probe/roots.ts'

const IO: ConfigIo = {
  cwd: '/',
  hostname: 'a',
  home: '/no/home',
  isRoot: false,
  isTty: false,
  readFile: () => undefined,
}

async function guess(...argv: readonly string[]): Promise<string> {
  const out: string[] = []
  const code = await guessEnv(['guess-env', ...argv], {
    env: {},
    io: IO,
    clock: systemClock(),
    out: (text) => out.push(text),
    err: () => undefined,
  })
  assert.equal(code, 0)
  return out.join('')
}

const Known = <T extends z.ZodType>(value: T) =>
  z.object({
    value,
    source: z.enum(['probed', 'declared', 'default']),
    how: z.string().min(1),
  })
const Ability = z.object({ ok: z.boolean(), why: z.string().min(1) })
/** What scripts may rely on. */
const Guess = z.object({
  v: z.literal(1),
  kernel: z.object({ system: z.string(), release: z.string() }),
  userland: z.object({
    system: z.string(),
    platform: z.object({ id: z.string(), version: z.string(), label: z.string() }),
  }),
  cpus: Known(z.int()),
  memoryBytes: Known(z.int()),
  swapBytes: Known(z.int()),
  disk: Known(z.object({ totalBytes: z.int(), freeBytes: z.int() })),
  cpuModel: Known(z.string()),
  cpuFlags: Known(z.array(z.string())),
  kvm: z.object({ host: Ability, sandbox: Ability }),
  namespaces: z.record(z.string(), Ability),
  chroot: Ability,
  overlay: z.object({ asRoot: Ability, inUserNamespace: Ability }),
  cgroups: z.object({ version: z.string(), controllers: z.record(z.string(), Ability) }),
  sandbox: z.object({ method: z.string(), reasons: z.array(z.string()) }),
  systems: z.array(z.object({ system: z.string(), how: z.string(), why: z.string() })).min(1),
  engines: z.array(z.object({ name: z.string(), ok: z.boolean() })),
  custom: z.object({ facts: z.array(z.object({ name: z.string(), value: z.string() })) }),
  offered: z.object({
    environments: z.array(EnvironmentJson).min(1),
    notices: z.array(z.string()),
  }),
})

test('guess-env: JSON, with what a program of its operator tells', async () => {
  await using root = await makeRoot()
  const script = join(root.path, 'facts.sh')
  await writeFile(script, '#!/bin/sh\necho gpu=none\n')
  await chmod(script, 0o755)
  const text = await guess('--json', '--facts', script, '--cpus', '4096', '--data', root.path)
  assert.equal(text.indexOf('\n'), text.length - 1)
  const found = Guess.parse(JSON.parse(text))
  assert.equal(found.systems[0]?.how, 'native')
  assert.deepEqual(found.custom.facts, [{ name: 'gpu', value: 'none' }])
  assert(found.offered.environments.every(({ features }) => features.includes('gpu-none')))
  assert.match(found.offered.notices.join(), /worker\.cpus is 4096, but there are only/)
})

test('guess-env: TOML is a configuration that offers what was found', async () => {
  const text = await guess('--toml', '--feature', '-native', '--feature', 'big')
  const { config, problems } = resolveConfig(
    { words: [], flags: new Map([['config', ['/worker.toml']]]) },
    {},
    { ...IO, readFile: () => text },
  )
  assert.deepEqual(problems, [])
  assert(config !== undefined)
  assert.deepEqual(config.features, ['-native', 'big'])
  assert(config.systems?.includes('x86_64-linux') ?? config.systems?.includes('aarch64-linux'))
  assert((config.cpus ?? 0) >= 1)
  assert((config.memoryBytes ?? 0) > 2 ** 20)
})

test('guess-env: text has all sections', async () => {
  const text = await guess()
  for (const title of ['machine', 'programs that run here', 'what works', 'what it offers'])
    assert.match(text, new RegExp(`^${title}$`, 'm'))
  assert.match(text, /^ {2}cpus +\d+ +probed: /m)
})

test('guess-env: another root is looked at, and not entered where it has no shell (T92)', async () => {
  await using root = await makeRoot({
    'usr/bin/env': { program: 'i686-linux' },
    'etc/os-release': 'ID=centos\nVERSION_ID="6"\n',
  })
  const found = z
    .object({
      v: z.literal(1),
      root: z.string(),
      system: z.string(),
      platform: z.object({ label: z.string() }),
      runs: z.enum(['native', 'compat', 'emulated', 'no']),
      entered: Ability,
      tools: z.array(z.string()),
    })
    .parse(JSON.parse(await guess('--root', root.path, '--json')))
  assert.equal(found.system, 'i686-linux')
  assert.equal(found.platform.label, 'centos-6')
  assert.equal(found.entered.ok, false)
  assert.match(
    await guess('--root', root.path),
    /^ {2}system +i686-linux +read: header of \/usr\/bin\/env/m,
  )
  assert.match(await guess('--root', root.path, '--toml'), /^system = "i686-linux" /m)
})

test('guess-env: a root whose shell does not run is told with the reason', async () => {
  // A program that ends with 42 for what it is given, and never with 0.
  await using root = await makeRoot({ 'bin/sh': { program: 'x86_64-linux' } })
  const found = JSON.parse(await guess('--root', root.path, '--json'))
  assert.equal(found.system, 'x86_64-linux')
  assert.equal(found.entered.ok, false)
  assert.deepEqual(found.tools, [])
})

test('guess-env: the root of this machine can be entered', async (t) => {
  const found = JSON.parse(await guess('--root', '/', '--json'))
  if (found.entered.ok !== true && /unshare|chroot/.test(found.entered.why)) {
    t.skip(`this machine lets nobody change the root: ${found.entered.why}`)
    return
  }
  assert.equal(found.entered.ok, true, found.entered.why)
  assert.equal(found.runs, 'native')
})

test('guess-env: bad usage', async () => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [['--root', '/no/such'], /--root "\/no\/such": there is no such directory/],
    [['--root', '/etc/passwd'], /not a directory/],
    [['--root'], /--root needs a directory/],
    [['--json', '--toml'], /exclude each other/],
    [['--json=1'], /--json takes no value/],
    [['extra'], /takes no argument "extra"/],
    [['--listen', 'none'], /has no flag --listen/],
    [['--cpus', 'many'], /expected a whole number/],
    [['--facts', 'relative'], /an absolute path/],
    [['--feature', 'Big'], /a name of a-z/],
  ]
  for (const [argv, message] of cases) await assert.rejects(guess(...argv), message)
  assert.match(await guess('--help'), /^Usage: mesh-node guess-env/)
})
