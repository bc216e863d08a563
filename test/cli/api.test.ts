/** `@buildmesh/mesh/api`: what generators make is a derivation file. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cid, defineGraph, files, path, source } from '../../src/cli/api.ts'
import { GraphDescription } from '../../src/cli/graph-file/description.ts'
import { sha256 } from '../../src/wire/digest.ts'

test('api: derivations, sources and outputs become the JSON form', () => {
  const graph = defineGraph(
    (g) => {
      const tar = source.http(['https://x.org/d/hello-1.tar.gz?raw', 'mirror:///hello'], {
        sha256: sha256('1'),
      })
      const other = source.http('https://y.org/hello-1.tar.gz', { sha256: sha256('2') })
      const hello = g.derivation('hello', {
        builder: '/bin/sh',
        outputs: ['out', 'doc'],
        inputs: { tar, other },
      })
      g.derivation('test', {
        builder: '/bin/sh',
        inputs: {
          bin: hello.out,
          doc: hello.doc,
          tree: files({
            a: path('a', { exclude: ['*.o'] }),
            b: cid(sha256('b'), { executable: true }),
          }),
        },
        when: [{ host: 'aarch64-linux', inputs: { tar } }],
      })
    },
    { defaults: { timeout: '1m' } },
  )
  const second = `hello-1.tar.gz-${sha256('2').slice(0, 8)}`
  assert.deepEqual(graph, {
    mesh: 1,
    defaults: { timeout: '1m' },
    sources: {
      'hello-1.tar.gz': {
        urls: ['https://x.org/d/hello-1.tar.gz?raw', 'mirror:///hello'],
        sha256: sha256('1'),
      },
      [second]: { urls: ['https://y.org/hello-1.tar.gz'], sha256: sha256('2') },
    },
    derivation: {
      hello: {
        builder: '/bin/sh',
        outputs: ['out', 'doc'],
        inputs: { tar: { source: 'hello-1.tar.gz' }, other: { source: second } },
      },
      test: {
        builder: '/bin/sh',
        inputs: {
          bin: { output: 'hello.out' },
          doc: { output: 'hello.doc' },
          tree: {
            files: {
              a: { path: 'a', exclude: ['*.o'] },
              b: { cid: sha256('b'), executable: true },
            },
          },
        },
        when: [{ host: 'aarch64-linux', inputs: { tar: { source: 'hello-1.tar.gz' } } }],
      },
    },
  })
  assert.ok(GraphDescription.safeParse(graph).success)
})

test('api: a generator may wait; a name cannot be defined twice', async () => {
  const graph = await defineGraph(async (g) => {
    await Promise.resolve()
    g.derivation('a', { builder: 'x' })
  })
  assert.deepEqual(Object.keys(graph.derivation ?? {}), ['a'])
  assert.throws(
    () =>
      defineGraph((g) => {
        g.derivation('a', { builder: 'x' })
        g.derivation('a', { builder: 'x' })
      }),
    /"a" is defined twice/,
  )
})
