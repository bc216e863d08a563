/** `[[worker.image]]` in the configuration. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readCommandLine } from '../../../src/node/config/command-line.ts'
import { resolveConfig, type Resolution } from '../../../src/node/config/resolve-config.ts'

const read = (text: string): Resolution =>
  resolveConfig(
    readCommandLine(['--config', '/etc/mesh/mesh.toml']),
    {},
    {
      cwd: '/',
      hostname: 'ci-a',
      home: '/ann',
      isRoot: false,
      isTty: false,
      readFile: () => text,
    },
  )

test('image-settings: images are declared with names, absolute paths and what they are for', () => {
  const { config, problems } = read(`[[worker.image]]
name = "debian-12"
path = "/srv/debian"
[[worker.image]]
name = "arm"
path = "/srv/arm"
system = "aarch64-linux"
publish = false
`)
  assert.deepEqual(problems, [])
  assert.deepEqual(config?.images, [
    { name: 'debian-12', path: '/srv/debian', publish: true },
    { name: 'arm', path: '/srv/arm', system: 'aarch64-linux', publish: false },
  ])
})

const BAD: readonly (readonly [text: string, message: RegExp, where: string])[] = [
  ['name = "x"\npath = "srv"', /expected an absolute path/, '3:8'],
  ['name = "X"\npath = "/srv"', /name of an image has 1-64/, '2:8'],
  ['name = "x"\npath = "/srv"\nsys = "x"', /unknown key "sys" in \[worker\.image\]/, '4:1'],
  [
    'name = "x"\npath = "/a"\n[[worker.image]]\nname = "x"\npath = "/b"',
    /two images have one name/,
    '1:10',
  ],
]
for (const [text, message, where] of BAD)
  test(`image-settings: ${message.source} is told with its line`, () => {
    const { config, problems } = read(`[[worker.image]]\n${text}\n`)
    assert.equal(config, undefined)
    assert.match(problems[0]?.message ?? '', message)
    assert.equal(problems[0]?.where, `/etc/mesh/mesh.toml:${where}`)
  })
