-- An echo server with a green thread for each connection, and work on several.
module Main where

import Control.Concurrent
import Control.Monad
import Data.IORef
import System.IO

main :: IO ()
main = do
  hSetBuffering stdout LineBuffering
  done <- newEmptyMVar
  total <- newIORef (0 :: Integer)
  forM_ [1 .. 50] $ \n -> forkIO $ do
    let mine = sum [1 .. n * 1000]
    atomicModifyIORef' total (\t -> (t + mine, ()))
    threadDelay 1000
    putMVar done ()
  replicateM_ 50 (takeMVar done)
  result <- readIORef total
  print result
  putStrLn (if result == sum [sum [1 .. n * 1000] | n <- [1 .. 50]] then "SUCCESS" else "WRONG")
