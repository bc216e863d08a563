/** Settings from flags, environment and file, where each came from, and what is refused. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { MeshError } from '../../src/base/errors.ts'
import { readCommandLine } from '../../src/node/config/command-line.ts'
import { takeEnvironment, type ConfigIo, type Env } from '../../src/node/config/config-io.ts'
import { loadConfig, resolveConfig } from '../../src/node/config/resolve-config.ts'
import { configSchema } from '../../src/node/config/settings.ts'
import { isLoopback } from '../../src/node/config/config-values.ts'

const PEER = '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe'

/** A machine on which only `files` exist. */
function machine(
  files: Readonly<Record<string, string>> = {},
  more: Partial<ConfigIo> = {},
): ConfigIo {
  return {
    cwd: '/cwd',
    hostname: 'ci-a',
    home: '/ann',
    isRoot: false,
    isTty: false,
    readFile: (path) => files[path],
    ...more,
  }
}

const load = (argv: readonly string[], env: Env = {}, io = machine()) => loadConfig(argv, env, io)

function errorOf(work: () => unknown): MeshError {
  try {
    work()
  } catch (error) {
    assert(error instanceof MeshError)
    return error
  }
  assert.fail('nothing was thrown')
}

test('config: without any setting one machine is root, worker and store on loopback', () => {
  assert.deepEqual(load([]), {
    data: '/ann/.local/share/mesh',
    name: 'ci-a',
    listen: ['/ip4/127.0.0.1/tcp/7421'],
    http: { host: '127.0.0.1', port: 7420 },
    httpOpen: false,
    parents: [],
    roles: ['root', 'worker', 'store'],
    mirrors: [],
    quotaBytes: undefined,
    floorBytes: undefined,
    keepLogsMs: 14 * 24 * 3600 * 1000,
    keepLogsBytes: undefined,
    allow: 'loopback',
    isolation: 'auto',
    checks: [],
    facts: [],
    features: [],
    systems: undefined,
    images: [],
    policy: {
      name: 'dedicated',
      owner: { cpus: 1, memoryBytes: undefined, idleAfterMs: 600_000, isBatteryFine: false },
      windows: [],
    },
    machineRoot: '/',
    auditShare: 0,
    shares: { halfLifeMs: 4 * 3600 * 1000, groups: [] },
    log: { level: 'info', format: 'json' },
    drainDeadlineMs: 30_000,
  })
  assert.equal(load([], {}, machine({}, { isTty: true })).log.format, 'pretty')
})

test('config: the data directory follows systemd, XDG and the user', () => {
  const root = machine({}, { isRoot: true })
  assert.equal(load([], {}, root).data, '/var/lib/mesh')
  assert.equal(load([], { XDG_DATA_HOME: '/xdg' }).data, '/xdg/mesh')
  assert.equal(load([], { XDG_DATA_HOME: 'relative' }).data, '/ann/.local/share/mesh')
  assert.equal(
    load([], { XDG_DATA_HOME: '/xdg', STATE_DIRECTORY: '/state/a:/state/b' }, root).data,
    '/state/a',
  )
  assert.equal(load(['--data', 'd'], { STATE_DIRECTORY: '/state' }).data, '/cwd/d')
  const io = machine({ '/etc/mesh/mesh.toml': '[node]\ndata = "../data"\n' })
  assert.equal(load([], {}, io).data, '/etc/data')
})

const nameOn = (hostname: string) => load([], {}, machine({}, { hostname })).name

test('config: a name is made from any host name', () => {
  assert.equal(nameOn('build_1.example.com'), 'build_1.example.com')
  assert.equal(nameOn('-ß bau'), 'bau')
  assert.equal(nameOn('…'), 'node')
  assert.equal(nameOn('x'.repeat(100)).length, 63)
})

test('config: flag before environment before file before default, each with its source', () => {
  const io = machine({
    '/ann/.config/mesh/mesh.toml':
      '[node]\nname = "file"\nroles = ["client"]\n\n[worker]\ncpus = 3\nmemory = "1 GiB"\n',
  })
  const env = { MESH_CPUS: '4', MESH_MEMORY: '2 GiB', MESH_NAME: '' }
  const { config, settings, file } = resolveConfig(readCommandLine(['--cpus=5']), env, io)
  assert.deepEqual([config?.name, config?.cpus, config?.memoryBytes], ['file', 5, 2 * 2 ** 30])
  const sources = settings.map(({ section, key, source }) => [`${section}.${key}`, source])
  assert.equal(file, '/ann/.config/mesh/mesh.toml')
  assert.deepEqual(
    sources.filter(([, source]) => source !== 'default'),
    [
      ['node.name', '/ann/.config/mesh/mesh.toml:2:8'],
      ['node.roles', '/ann/.config/mesh/mesh.toml:3:9'],
      ['worker.cpus', '--cpus'],
      ['worker.memory', 'MESH_MEMORY'],
    ],
  )
})

test('config: the file that is named is read, and no other', () => {
  const files = {
    '/cwd/own.toml': '[node]\nname = "own"',
    '/x/mesh/mesh.toml': '[node]\nname = "user"',
    '/etc/mesh/mesh.toml': '[node]\nname = "system"',
  }
  const io = machine(files)
  assert.equal(load(['--config', 'own.toml'], { MESH_CONFIG: '/none' }, io).name, 'own')
  assert.equal(load([], { MESH_CONFIG: '/cwd/own.toml' }, io).name, 'own')
  assert.equal(load([], { XDG_CONFIG_HOME: '/x' }, io).name, 'user')
  assert.equal(load([], {}, io).name, 'system')
  const missing = errorOf(() => load([], { MESH_CONFIG: 'none.toml' }, io))
  assert.deepEqual([missing.code, missing.where], ['MESH0104', '/cwd/none.toml'])
  assert.match(missing.message, /^MESH_CONFIG "none.toml": there is no such file$/)
})

test('config: lists are repeated flags or texts with commas', () => {
  const argv = [
    '--listen',
    '/ip4/127.0.0.1/tcp/0',
    '--listen=/ip6/::1/tcp/0',
    '--role',
    'store,worker,store',
  ]
  const config = load([...argv, '--mirror', 'http://a/x'], {
    MESH_MIRROR: 'https://no',
    MESH_ALLOW: `${PEER}, ${PEER}`,
  })
  assert.deepEqual(config.listen, ['/ip4/127.0.0.1/tcp/0', '/ip6/::1/tcp/0'])
  assert.deepEqual(config.roles, ['worker', 'store'])
  assert.deepEqual(config.mirrors, ['http://a/x/'])
  assert.deepEqual(config.allow, [PEER, PEER])
  assert.deepEqual(load(['--listen', 'none']).listen, [])
  assert.match(
    errorOf(() => load(['--listen', 'none,/ip4/127.0.0.1/tcp/0'])).message,
    /"none" stands alone/,
  )
})

test('config: with a parent a node is worker and store', () => {
  const parent = `/dns4/root.example/tcp/7421/p2p/${PEER}`
  const config = load(['--parent', parent])
  assert.deepEqual([config.parents, config.roles], [[parent], ['worker', 'store']])
  assert.deepEqual(load(['--parent', parent, '--role', 'client']).roles, ['client'])
})

test('config: an unknown key is shown with its line and the nearest known one', () => {
  const text = '[node]\nname = "a"\n\n[worker]\n\tslots = 8\ncpu = 3\nmirrors = []\n[stroe]\n'
  const io = machine({ '/etc/mesh/mesh.toml': text })
  const { problems, config } = resolveConfig(readCommandLine([]), {}, io)
  assert.equal(config, undefined)
  assert.deepEqual(
    problems
      .toSorted((a, b) => (a.where ?? '').localeCompare(b.where ?? ''))
      .map(({ code, where, message, hints }) => [code, where, message, ...hints]),
    [
      [
        'MESH0104',
        '/etc/mesh/mesh.toml:5:2',
        'unknown key "slots" in [worker]\n5 | \tslots = 8\n  | \t^',
        'known: cpus, memory, isolation, checks, facts, features, systems, policy, machine-root, owner, window, image',
      ],
      [
        'MESH0104',
        '/etc/mesh/mesh.toml:6:1',
        'unknown key "cpu" in [worker]\n6 | cpu = 3\n  | ^',
        'did you mean "cpus"?',
      ],
      [
        'MESH0104',
        '/etc/mesh/mesh.toml:7:1',
        'unknown key "mirrors" in [worker]\n7 | mirrors = []\n  | ^',
        'did you mean "mirrors" in [store]?',
      ],
      [
        'MESH0104',
        '/etc/mesh/mesh.toml:8:2',
        'unknown key "stroe" at the top\n8 | [stroe]\n  |  ^',
        'did you mean "store"?',
      ],
    ],
  )
  const first = errorOf(() => load([], {}, io))
  assert.equal(first.exit, 2)
  assert.equal(first.hints.at(-1), '3 more: mesh-node config check')
})

function problemsOf(text: string): string[] {
  const io = machine({ '/etc/mesh/mesh.toml': text })
  return resolveConfig(readCommandLine([]), {}, io).problems.map(
    ({ where, message }) => `${where} ${message}`,
  )
}

test('config: a bad value is shown where it stands', () => {
  assert.deepEqual(problemsOf('[worker]\nmemory = "8 Gib"'), [
    '/etc/mesh/mesh.toml:2:10 worker.memory: expected a size such as "8 GiB", or "auto"\n2 | memory = "8 Gib"\n  |          ^',
  ])
  assert.match(
    problemsOf('node = { roles = ["root", "boss"] }').join(),
    /^\/etc\/mesh\/mesh.toml:1:27 node.roles.1: /,
  )
  assert.match(problemsOf('node = 3').join(), /^\/etc\/mesh\/mesh.toml:1:8 node: /)
  assert.match(problemsOf('[[node]]\nname = "x"').join(), /^\/etc\/mesh\/mesh.toml:1:3 node: /)
  assert.match(
    problemsOf('[worker]\ncpus = 0').join(),
    /^\/etc\/mesh\/mesh.toml:2:8 worker.cpus: Too small/,
  )
})

test('config: what is no TOML is shown with its place', () => {
  const error = errorOf(() =>
    load([], {}, machine({ '/etc/mesh/mesh.toml': '[node]\nname = "a\n' })),
  )
  assert.equal(error.code, 'MESH0201')
  assert.match(error.where ?? '', /^\/etc\/mesh\/mesh.toml:2:\d+$/)
  assert.match(error.message, /\n2 \| name = "a\n {2}\| +\^$/)
})

test('config: a bad flag or variable is named', () => {
  const cases: readonly (readonly [argv: readonly string[], env: Env, message: RegExp])[] = [
    [['--cpus', '-3'], {}, /^--cpus "-3": expected a whole number/],
    [['--memory', '8GB'], {}, /^--memory "8GB": expected a size/],
    [['--role', ''], {}, /^--role "": /],
    [['--name', 'a b'], {}, /^--name "a b": a node name has/],
    [['--http', '127.0.0.256:80'], {}, /^--http /],
    [['--http', '127.0.0.1:65536'], {}, /^--http /],
    [['--listen', '/ip4/127.0.0.1/udp/1'], {}, /^--listen .*: expected "none" or a multiaddr/],
    [['--listen', '/dns4/localhost/tcp/1'], {}, /^--listen /],
    [['--parent', '/ip4/10.0.0.1/tcp/0'], {}, /^--parent /],
    [['--parent', '/ip4/10.0.0.1/tcp/1/p2p/x'], {}, /^--parent /],
    [['--mirror', 'ftp://a/'], {}, /^--mirror "ftp:\/\/a\/": expected an http/],
    [['--allow', 'all'], {}, /^--allow "all": expected "any" or a peer id/],
    [['--drain-deadline', '30'], {}, /^--drain-deadline "30": expected a duration/],
    [[], { MESH_LOG_LEVEL: 'loud' }, /^MESH_LOG_LEVEL "loud": /],
    [['--http-open=yes'], {}, /^--http-open "yes": expected true or false/],
    [[], { MESH_HTTP_OPEN: '1' }, /^MESH_HTTP_OPEN "1": expected true or false/],
    [['--data'], {}, /^--data needs a value$/],
    [['--data', '--name', 'x'], {}, /^--data needs a value$/],
    [['--help=yes'], {}, /^--help takes no value$/],
  ]
  for (const [argv, env, message] of cases) {
    const error = errorOf(() => load(argv, env))
    assert.deepEqual([error.code, error.exit], ['MESH0104', 2], argv.join(' '))
    assert.match(error.message, message)
  }
})

test('config: a switch is true by its flag alone, and takes either value everywhere', () => {
  const isOpen = (argv: readonly string[], env: Env = {}, file = '') =>
    load(argv, env, machine({ '/etc/mesh/mesh.toml': file })).httpOpen
  assert.equal(isOpen([]), false)
  assert.equal(isOpen(['--http-open', '--name', 'x']), true)
  assert.equal(isOpen(['--http-open=false'], { MESH_HTTP_OPEN: 'true' }), false)
  assert.equal(isOpen([], { MESH_HTTP_OPEN: 'true' }), true)
  assert.equal(isOpen([], { MESH_HTTP_OPEN: 'false' }, '[http]\nopen = true\n'), false)
  assert.equal(isOpen([], {}, '[http]\nopen = true\n'), true)
  assert.deepEqual(readCommandLine(['--http-open', 'run']).words, ['run'])
})

test('config: an unknown flag is answered with the two nearest', () => {
  const error = errorOf(() => load(['--mirrors', 'http://a']))
  assert.equal(error.message, 'unknown flag --mirrors')
  assert.equal(error.hints[0], 'nearest: --mirror, --memory')
  assert.equal(error.exit, 2)
})

test('config: beyond loopback the admitted peers must be named', () => {
  const exposed = [
    ['--listen', '/ip4/0.0.0.0/tcp/0'],
    ['--listen', '/ip6/::/tcp/0'],
    ['--listen', '/ip4/127.0.0.1/tcp/0', '--listen', '/ip4/10.1.2.3/tcp/1'],
    ['--http', '0.0.0.0:0'],
    ['--http', 'build.example:80'],
    ['--http', '[::ffff:10.0.0.1]:80'],
  ]
  for (const argv of exposed) {
    const error = errorOf(() => load(argv))
    assert.deepEqual([error.code, error.exit], ['MESH0107', 2])
    assert(error.message.includes(argv.at(-1) ?? ''), error.message)
    assert(error.message.includes(`(${argv[0]})`), error.message)
    assert.deepEqual(load([...argv, '--allow', PEER]).allow, [PEER])
    assert.equal(load([...argv, '--allow', PEER, '--allow', 'any']).allow, 'any')
  }
  const both = resolveConfig(
    readCommandLine(['--listen', '/ip4/1.2.3.4/tcp/1', '--http', '1.2.3.4:1']),
    {},
    machine(),
  )
  assert.equal(both.problems.length, 2)
  for (const host of [
    '127.0.0.1',
    '127.9.9.9',
    '::1',
    '0:0:0:0:0:0:0:1',
    '::ffff:127.0.0.1',
    'localhost',
  ])
    assert(isLoopback(host), host)
})

test('config: no command line, environment or file makes it throw anything but its errors', () => {
  const word = fc.oneof(
    fc.constantFrom(
      '--data',
      '--listen=',
      '--cpus',
      '--allow',
      'any',
      'none',
      '--',
      '-h',
      '--help',
      '-',
      '--no-data',
      '[node]',
    ),
    fc.string(),
  )
  fc.assert(
    fc.property(fc.array(word), fc.string(), fc.array(word), (argv, value, lines) => {
      const io = machine({ '/etc/mesh/mesh.toml': lines.join('\n') })
      try {
        load(argv, { MESH_LISTEN: value, MESH_DATA: value }, io)
      } catch (error) {
        assert(error instanceof MeshError, String(error))
      }
    }),
  )
})

test('config: the variables of the service manager are taken away from later children', () => {
  process.env['NOTIFY_SOCKET'] = '/run/notify'
  process.env['WATCHDOG_USEC'] = '1000000'
  const env = takeEnvironment()
  assert.deepEqual([env['NOTIFY_SOCKET'], env['WATCHDOG_USEC']], ['/run/notify', '1000000'])
  assert.deepEqual(
    [process.env['NOTIFY_SOCKET'], process.env['WATCHDOG_USEC']],
    [undefined, undefined],
  )
})

test('config: the share of audits is a percentage', () => {
  const shareOf = (text: string): number => loadConfig(['--audit', text], {}, machine()).auditShare
  assert.equal(shareOf('5%'), 0.05)
  assert.equal(shareOf('0.5%'), 0.005)
  assert.equal(shareOf('100%'), 1)
  for (const text of ['5', '101%', '-1%', '%', '1e1%'])
    assert.throws(() => shareOf(text), /expected a percentage from 0% to 100%/)
})

test('config: every setting is in docs/configuration.md with its three names', () => {
  const docs = readFileSync(new URL('../../docs/configuration.md', import.meta.url), 'utf8')
  const { settings } = resolveConfig(readCommandLine([]), {}, machine())
  const missing = settings.filter(({ section, key, flag, env }) =>
    [`\`${section}.${key}\``, `\`--${flag}`, `\`${env}\``].some((name) => !docs.includes(name)),
  )
  assert.deepEqual(missing, [])
  assert.deepEqual(Object.keys(configSchema().properties ?? {}), [
    ...new Set(settings.map(({ section }) => section)),
  ])
})

test('config: checks are absolute paths outside of what a build sees, at most eight', () => {
  assert.deepEqual(load(['--check', '/usr/bin/a', '--check', '/b']).checks, ['/usr/bin/a', '/b'])
  assert.deepEqual(load([], { MESH_CHECK: '/a,/b' }).checks, ['/a', '/b'])
  for (const path of ['check.sh', '', '/build/check', '/build'])
    assert.equal(errorOf(() => load(['--check', path])).code, 'MESH0104', path)
  const many = Array.from({ length: 9 }, (_, at) => `--check=/c${at}`)
  assert.equal(errorOf(() => load(many)).code, 'MESH0104')
})

test('config: what a worker offers can be added to and held back, in its forms', () => {
  const { facts, features, systems } = loadConfig(
    ['--facts', '/a,/b', '--feature', '-kvm', '--feature', 'big', '--system', 'i686-linux'],
    {},
    machine(),
  )
  assert.deepEqual(
    { facts, features, systems },
    { facts: ['/a', '/b'], features: ['-kvm', 'big'], systems: ['i686-linux'] },
  )
  for (const [flag, value, message] of [
    ['--facts', 'relative', /an absolute path/],
    ['--facts', '/build/x', /not below \/build/],
    ['--feature', '--kvm', /needs a value|a name of a-z/],
    ['--feature', 'KVM', /a name of a-z/],
    ['--system', 'x86 64', /a system such as "x86_64-linux"/],
  ] as const)
    assert.throws(() => loadConfig([flag, value], {}, machine()), message, `${flag} ${value}`)
})
