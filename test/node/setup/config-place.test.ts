/** Where `init` writes, and that it never writes over another file by accident. */
import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { ConfigIo } from '../../../src/node/config/config-io.ts'
import { findConfigPlace, writeConfig } from '../../../src/node/setup/init/config-place.ts'

class Home implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-config-'))
  readonly io: ConfigIo = {
    cwd: this.directory,
    hostname: 'a',
    home: this.directory,
    isRoot: false,
    isTty: false,
    readFile: (path) => (existsSync(path) ? readFileSync(path, 'utf8') : undefined),
  }

  find(flags: Readonly<Record<string, string>> = {}, env: Readonly<Record<string, string>> = {}) {
    const line = {
      words: [],
      flags: new Map(Object.entries(flags).map(([flag, value]) => [flag, [value]])),
    }
    return findConfigPlace(line, env, this.io)
  }

  path(...names: readonly string[]): string {
    return join(this.directory, ...names)
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true })
  }
}

test("config-place: the user's own, the one of XDG, or the one that is named", async () => {
  using home = new Home()
  const usual = { isUsual: true, isTaken: false }
  assert.deepEqual(await home.find(), { ...usual, path: home.path('.config/mesh/mesh.toml') })
  assert.deepEqual(await home.find({}, { XDG_CONFIG_HOME: home.path('x') }), {
    ...usual,
    path: home.path('x/mesh/mesh.toml'),
  })
  const named = { path: home.path('n.toml'), isUsual: false, isTaken: false }
  assert.deepEqual(await home.find({ config: 'n.toml' }), named)
  assert.deepEqual(await home.find({}, { MESH_CONFIG: 'n.toml' }), named)
  writeFileSync(named.path, '')
  assert.deepEqual(await home.find({ config: 'n.toml' }), { ...named, isTaken: true })
})

test('config-place: root is told of a file that would be read instead', async () => {
  using home = new Home()
  const find = () =>
    findConfigPlace({ words: [], flags: new Map() }, {}, { ...home.io, isRoot: true })
  assert.equal((await find()).path, '/etc/mesh/mesh.toml')
  mkdirSync(home.path('.config/mesh'), { recursive: true })
  writeFileSync(home.path('.config/mesh/mesh.toml'), '')
  await assert.rejects(find(), { code: 'MESH0604', message: /reads .*\.config\/mesh\/mesh\.toml/ })
})

test('config-place: written whole, with its directories, and read by all', async () => {
  using home = new Home()
  const path = home.path('a/b/mesh.toml')
  await writeConfig(path, 'one', { isReplacing: false })
  assert.equal(readFileSync(path, 'utf8'), 'one')
  assert.equal(statSync(path).mode & 0o777, 0o644 & ~process.umask())
  await assert.rejects(writeConfig(path, 'two', { isReplacing: false }), { code: 'MESH0604' })
  assert.equal(readFileSync(path, 'utf8'), 'one')
  await writeConfig(path, 'two', { isReplacing: true })
  assert.equal(readFileSync(path, 'utf8'), 'two')
  assert.deepEqual(readdirSync(home.path('a/b')), ['mesh.toml'])
})

test('config-place: a place that cannot be is told with its reason', async () => {
  using home = new Home()
  writeFileSync(home.path('file'), '')
  const wrong = { code: 'MESH0104', message: /file is no directory/ }
  await assert.rejects(home.find({ config: 'file/mesh.toml' }), wrong)
  // It came after it was looked at.
  await assert.rejects(writeConfig(home.path('file/mesh.toml'), '', { isReplacing: false }), {
    code: 'MESH0104',
    message: /nothing can be written there: E(?:EXIST|NOTDIR)/,
  })
})
