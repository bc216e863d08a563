/** The memory store: the contract, and its full disk. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { blobStoreContract, bytesOf } from '../contract/blob-store.ts'

blobStoreContract('memory-blob-store', async () => openMemoryBlobStore())

test('memory-blob-store: is full at its limit', async () => {
  await using store = openMemoryBlobStore({ bytesMax: 1000 })
  await store.put(bytesOf(900))
  await assert.rejects(store.put(bytesOf(101, 2)), { code: 'MESH0503' })
})
