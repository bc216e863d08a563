/** `[worker]` policy, `[worker.owner]` and `[[worker.window]]` of the configuration. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readCommandLine } from '../../../src/node/config/command-line.ts'
import { resolveConfig, type Resolution } from '../../../src/node/config/resolve-config.ts'
import { parseClock, parseDays, shownPolicy } from '../../../src/node/config/policy-settings.ts'

function resolved(text: string, argv: readonly string[] = []): Resolution {
  return resolveConfig(
    readCommandLine(argv),
    {},
    {
      cwd: '/work',
      hostname: 'ci-a',
      home: '/ann',
      isRoot: false,
      isTty: false,
      readFile: (path) => (path === '/etc/mesh/mesh.toml' ? text : undefined),
    },
  )
}

const FULL = `[worker]
policy = "when-idle"

[worker.owner]
cpus = 2
memory = "4 GiB"
idle-after = "5m"
battery = true

[[worker.window]]
days = "mon-fri"
from = "09:00"
to = "18:00"
cpus = 4

[[worker.window]]
days = "sat,sun"
from = "00:00"
to = "24:00"
policy = "dedicated"
`

test('policy settings: without any the whole machine is for builds', () => {
  const { config } = resolved('')
  assert.deepEqual(config?.policy, {
    name: 'dedicated',
    owner: { cpus: 1, memoryBytes: undefined, idleAfterMs: 600_000, isBatteryFine: false },
    windows: [],
  })
  assert.equal(config?.machineRoot, '/')
})

test('policy settings: a policy with its owner’s part and its hours', () => {
  assert.deepEqual(resolved(FULL).problems, [])
  assert.deepEqual(resolved(FULL).config?.policy, {
    name: 'when-idle',
    owner: { cpus: 2, memoryBytes: 4 * 1024 ** 3, idleAfterMs: 300_000, isBatteryFine: true },
    windows: [
      { days: [0, 1, 2, 3, 4], from: 540, to: 1080, cpus: 4, policy: undefined },
      { days: [5, 6], from: 0, to: 1440, cpus: undefined, policy: 'dedicated' },
    ],
  })
})

test('policy settings: flags come before the file', () => {
  const { config } = resolved(FULL, ['--policy', 'disabled', '--machine-root', '/host'])
  assert.deepEqual([config?.policy.name, config?.machineRoot], ['disabled', '/host'])
  assert.equal(config?.policy.owner.cpus, 2)
})

test('policy settings: what is shown means the same', () => {
  const { config } = resolved(FULL)
  assert.ok(config !== undefined)
  const shown = `[worker]\npolicy = "when-idle"\n${shownPolicy(config.policy).join('\n')}\n`
  assert.deepEqual(resolved(shown).config?.policy, config.policy)
})

const wrong: readonly (readonly [name: string, text: string, message: RegExp, where: string])[] = [
  ['policy', '[worker]\npolicy = "idle"\n', /worker\.policy: .*"when-idle"/, '2:10'],
  ['cpus', '[worker.owner]\ncpus = -1\n', /worker\.owner\.cpus/, '2:8'],
  ['idle time', '[worker.owner]\nidle-after = "0s"\n', /from 1s to 24h such as "10m"/, '2:14'],
  ['key', '[worker.owner]\nidle = "5m"\n', /unknown key "idle" in \[worker\.owner\]/, '2:1'],
  [
    'key of a window',
    '[[worker.window]]\ndays = "daily"\nfrom = "09:00"\nto = "10:00"\ncpu = 1\ncpus = 1\n',
    /unknown key "cpu" in \[worker\.window\]/,
    '5:1',
  ],
  [
    'days',
    '[[worker.window]]\ndays = "weekdays"\nfrom = "09:00"\nto = "10:00"\ncpus = 1\n',
    /days such as "mon-fri"/,
    '2:8',
  ],
  [
    'hours',
    '[[worker.window]]\ndays = "mon"\nfrom = "24:00"\nto = "25:00"\ncpus = 1\n',
    /window\.0\.from: expected HH:MM/,
    '3:8',
  ],
  [
    'hours of no length',
    '[[worker.window]]\ndays = "mon"\nfrom = "09:00"\nto = "09:00"\ncpus = 1\n',
    /a whole day is from = "00:00", to = "24:00"/,
    '4:6',
  ],
  [
    'nothing',
    '[[worker.window]]\ndays = "mon"\nfrom = "09:00"\nto = "10:00"\n',
    /it changes nothing: give it cpus or policy/,
    '',
  ],
]
for (const [name, text, message, where] of wrong)
  test(`policy settings: a wrong ${name} is refused where it stands`, () => {
    const [problem] = resolved(text).problems
    assert.ok(problem !== undefined)
    assert.deepEqual(
      [problem.code, message.test(problem.message)],
      ['MESH0104', true],
      problem.message,
    )
    assert.ok(problem.where?.startsWith('/etc/mesh/mesh.toml'), problem.where)
    if (where !== '') assert.equal(problem.where, `/etc/mesh/mesh.toml:${where}`)
  })

test('policy settings: days and hours as people write them', () => {
  assert.deepEqual(parseDays('mon-wed,sun'), [0, 1, 2, 6])
  assert.deepEqual(parseDays('fri-mon'), [0, 4, 5, 6])
  assert.deepEqual(parseDays('sat, sun'), [5, 6])
  for (const text of ['', 'mon-', 'monday', 'mon-fri-sun', 'Mon'])
    assert.equal(parseDays(text), undefined, text)
  assert.deepEqual([parseClock('00:00'), parseClock('24:00'), parseClock('09:05')], [0, 1440, 545])
  for (const text of ['9:00', '09:60', '24:01', '']) assert.equal(parseClock(text), undefined, text)
})
